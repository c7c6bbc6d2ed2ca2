"""The report of a run, one page to look at: `python -m metric_sub.report --config C --data D --work W`.

Reads <work>/media, <work>/detections, <work>/matches, <work>/result.json and, where the data has annotations, these; writes
<work>/report.html: one file that needs no other, with a card per video. `--picture PATH` also writes a PNG of the
nearest matches.
"""

import base64
import hashlib
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metric_sub import charts, time_line
from metric_sub.card_facts import unsure_means
from metric_sub.cards import Card, build_cards
from metric_sub.charts import Chart, distance_chart, precision_recall_chart, probability_chart
from metric_sub.finished_run import Run, read_run, score_run
from metric_sub.histogram import NO_CUT_OFF
from metric_sub.match_picture import draw_nearest, png_bytes
from metric_sub.score import LEVELS
from metric_sub.thumbnails import Picture, data_uri
from metric_sub.vote import match_items
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Calibration, Match
from shared.errors import UserError
from shared.files import write_whole
from shared.lock import held

log = logging.getLogger("report")

N_NEAREST = 3
FILTERS = ("all", "right", "wrong", "match", "unsure", "nomatch")


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Write the report of a run.", argv, ("--picture", f"also write here a PNG of the {N_NEAREST} nearest matches")
    )
    config = config_of(options)
    n_threads = use_threads(config.threads)
    with held(options.work, shared=True):
        run = read_run(options.data, options.work, config.data)
        score = score_run(run, config.score)
        cards = build_cards(run, score, config, n_threads)
        page = render_page(options.data.resolve().name, run, score, cards, read_curves(options.weights))
        write_file(options.work / "report.html", page.encode("utf-8"))
        if options.picture:
            write_file(options.picture, png_bytes(draw_nearest(run, N_NEAREST, config.data)))


def build_charts(run: Run, score: dict | None) -> Iterator[Chart]:
    """Of the matches as they would be without a cut-off: their distances; where truth is known, precision and recall; where
    the run was calibrated, the probability."""
    cut_off = run.rule["max_distance"]
    takes = [name for name, of in inspect.signature(match_items).parameters.items() if of.kind is of.KEYWORD_ONLY]
    settings = {key: run.rule[key] for key in takes} | {"max_distance": max(NO_CUT_OFF, cut_off)}
    matches = match_items(run.votes.drop(columns=["kept", "weight"]), **settings)[0]
    if matches.empty:
        return
    distance, right, n_expected = matches.distance.to_numpy(), None, 0
    if score:
        expected = {row["video_id"] for row in score["per_video"] if row["expected"]}
        right = ((matches.item_id == matches.video_id) & matches.video_id.isin(expected)).to_numpy()
        n_expected = len(expected)
    yield distance_chart(distance, right, cut_off)
    if n_expected:
        yield precision_recall_chart(distance, right, n_expected, cut_off)
    if run.rule["calibration"]:
        yield probability_chart(distance, right, Calibration(**run.rule["calibration"]), cut_off)


def read_curves(weights: Path) -> list[Picture]:
    """<weights>/*/curves.png as pictures, by the folders' names."""
    paths = sorted(weights.glob("*/curves.png"))
    return [Picture(path.parent.name, data_uri("png", path.read_bytes())) for path in paths]


def render_page(title: str, run: Run, score: dict | None, cards: list[Card], curves: list[Picture]) -> str:
    """The page as HTML. Everything that comes from outside (ids, names, reasons) is escaped by the template engine."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    photos = run.data.media[run.data.media.kind == "photo"]
    states = {card.video_id: states_of(card) for card in cards}
    counts = {name: sum(name in of_card for of_card in states.values()) for name in FILTERS}
    filters = ("all", "right", "wrong", "unsure", "nomatch") if score else ("all", "match", "unsure", "nomatch")
    kinds = sorted({card.kind for card in cards})
    by_kind = score.get("by_kind", {}) if score else {}
    return environment.get_template("report.html.j2").render(
        title=title,
        score=score,
        score_rows=[*by_kind.items(), ("all", score)],
        levels=list(LEVELS),
        cards=cards,
        states=states,
        curves=curves,
        charts=list(build_charts(run, score)),
        plot=charts.PLOT,
        strip=time_line.STRIP,
        counts=counts,
        filters=filters,
        kinds=[(kind, sum(card.kind == kind for card in cards)) for kind in kinds] if any(kinds) else [],
        calibrated=run.rule["calibration"] is not None,
        unsure_means=unsure_means(run.rule["calibration"] is not None),
        n_items=photos.item_id.nunique(),
        n_photos=len(photos),
        rule=run.rule,
        rule_keys=list(Match.model_fields),
        skipped=sorted(run.skipped.items()),
        problems=[(problem.path, problem.fault) for problem in run.data.problems],
        script_hash=base64.b64encode(hashlib.sha256((folder / "report.js").read_bytes()).digest()).decode("ascii"),
    )


def states_of(card: Card) -> list[str]:
    """The filters that the card passes."""
    states = ["all", card.verdict, "match" if card.item_id else "nomatch", "unsure" if card.unsure else ""]
    return [state for state in states if state]


def write_file(path: Path, data: bytes) -> None:
    try:
        write_whole(path, lambda beside: beside.write_bytes(data))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}). Name another place.") from None
    log.info("%s (%.1f MB)", path, len(data) / 1e6)


if __name__ == "__main__":
    run_entry(main)
