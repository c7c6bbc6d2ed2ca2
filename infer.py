"""Both stages in one process, each photo and video read once: `python -m infer --config C --data D --work W`.

Writes what `bbox_sub.infer` and, after it, `metric_sub.infer` write, to the byte. What stands already is reused; what was
interrupted, by this or by them, goes on.
"""

from collections.abc import Iterator

from bbox_sub import detections as detector
from bbox_sub.detections import Detections
from metric_sub import embeddings as embedders
from metric_sub.embeddings import Embeddings
from metric_sub.infer import refuse_unfit_index, write_matches
from shared.catalogue import COLUMNS as MEDIA
from shared.catalogue import catalogue_media, tell_skipped
from shared.cli import STRICT, config_of, parse_options, run_entry, use_threads
from shared.config import save_config
from shared.flow import Flow
from shared.lock import locked
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.units import Job, Unit, due_units, read_units


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Match items and videos: both stages, each file read once.", argv, STRICT)
    config = config_of(options)
    use_threads(config.threads)
    # What does not fit, or cannot run here, is told before the media are looked through.
    runtimes = [stage.runtime_of(config, options.weights) for stage in (detector, embedders)]
    refuse_unfit_index(config, options.weights)
    with locked(options.work), open_reader(config.data) as reader:
        save_config(options.work, config)
        catalogue = catalogue_media(options.data, options.work, config.data, options.fresh, options.strict)
        media = catalogue.table("table", MEDIA)
        detections = Detections(config, runtimes[0], options.weights, options.work, media, options.fresh, options.strict)
        embeddings = Embeddings(config, runtimes[1], options.weights, options.work, media, detections.fingerprints, options.fresh)
        due = due_units(detections.units, detections.steps, embeddings.steps)
        total = len(detections.units)
        with progress_bar(total=total, title="infer", unit="unit", done=total - len(due)) as bar, Flow() as flow:
            read = flow.ahead(read_units(jobs(due, detections, embeddings), reader, config.frames.indices))
            found = flow.ahead(detections.detect(flow.ahead(detections.prepare(read))))
            for embedded in flow.ahead(embeddings.embed(flow.ahead(embeddings.cut(found)))):
                detections.put(embedded.end)
                embeddings.put(embedded)
                bar.skip(len(embedded.end.skipped))
                bar.update()
        detections.finish()
        write_matches(config, options, media, embeddings.finish(detections.fingerprints))
        tell_skipped(options.work)


def jobs(due: list[Unit], detections: Detections, embeddings: Embeddings) -> Iterator[Job]:
    for unit in due:
        table = detections.known(unit)
        yield Job(unit, table, table is None or embeddings.wants(unit, table))


if __name__ == "__main__":
    run_entry(main, lower="detect.batch_size, embed.batch_size or data.max_pixels")
