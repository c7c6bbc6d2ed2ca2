"""What each choice of an embedder's training gives: the same model, seed and epochs with one thing changed, and what it costs.

    python -m benchmarks.embedder_choices --config C --data D --work W [--only NAME] [--seeds 3] [section.key=value ...]

Trains the first of `embedders` as the config has it, then once for each choice below, one after the other, and all that again with
each further seed; judges each alone, without the descriptors, by the labelled boxes of every part of the data that was not trained
on. Writes <work>/choices.json after each and prints the table. What is finished there is reused.
"""

import contextlib
import itertools
import json
import logging
import resource
import shutil
from pathlib import Path
from statistics import mean

from pydantic import ValidationError

import metric_sub.judge
import metric_sub.train
from metric_sub.descriptors import DESCRIPTORS
from shared.cli import config_of, parse_options, run_entry
from shared.config import SEEDS, Config, dump_config
from shared.dataset import content_fingerprint, read_dataset
from shared.errors import UserError, first_fault
from shared.files import write_json, write_whole
from shared.work import fingerprint

log = logging.getLogger("choices")

BASE = "as configured"
FIGURES = (("retrieval", "recall_at_1"), ("retrieval", "mAP_at_R"), ("matching", "S1"))  # of the table, by part


def choices(config: Config) -> dict[str, dict]:
    """name -> the tree of a config with the first embedder alone and one choice made otherwise. The first is as the config is; a
    choice that does not fit the config's other keys is left out."""
    train, made = config.train_of(config.embedders[0]), {}

    def choose(
        name: str, embed: dict | None = None, model: dict | None = None, loss: dict | None = None, **keys
    ) -> None:
        tree = config.model_dump()
        tree["embedders"] = [tree["embedders"][0] | {"train": {}} | (model or {})]
        tree["descriptors"] |= dict.fromkeys(DESCRIPTORS, 0.0)  # beside them little would show of what a choice does
        tree["embed"] |= embed or {}
        tree["embed_train"] = train.model_dump() | keys
        tree["embed_train"]["loss"] |= loss or {}
        if tree not in made.values():
            try:
                made[name] = Config.model_validate(tree).model_dump()
            except ValidationError as error:
                log.warning("%s: left out: %s", name, first_fault(error))

    def augmented(**keys) -> dict:
        return {name: {**each.model_dump(), **keys} for name, each in train.augment.items()}

    plain = {name: 0.0 for name in next(iter(train.augment.values())).model_dump() if name != "box_jitter"}
    *before, last = (phase.model_dump() for phase in train.phases)
    views = {**last, "share": 0.25, "task": "views", "freeze_backbone": False, "cycles": 1}
    warmed = [views, *({**phase, "share": 0.75 * phase["share"]} for phase in (*before, last))]
    annealed = [*before, {**last, "share": 0.6 * last["share"], "cycles": 1}, {**last, "share": 0.4 * last["share"], "cycles": 3}]
    choose(BASE)
    choose("one aspect group", model={"aspect_groups": 1})
    choose("five aspect groups", model={"aspect_groups": 5})
    choose("one scale", scales=[1.0])
    choose("three scales in turn", scales=[0.75, 1.0, 1.25])
    choose("no augmentation but the boxes' jitter", augment=augmented(**plain))
    choose("photos on their white paper", augment=augmented(backdrop=0.0))
    choose("exact boxes", augment=augmented(box_jitter=0.0))
    choose("no colour shift, no grey", augment=augmented(channel_shift=0.0, grey=0.0))
    choose("distractors' tracks as products", distractor_tracks=True)
    choose("no recoloured products", recolour=0.0)
    choose("half of the colourful products recoloured", recolour=0.5)
    choose("MixUp 0.5", augment=augmented(mixup=0.5, cutmix=0.0))
    choose("CutMix 0.5", augment=augmented(mixup=0.0, cutmix=0.5))
    choose("memory of 256 for ArcFace", model={"memory": 256}, loss={"memory_for": "classifier"})
    choose("multi-similarity added", loss={"pair": "multi_similarity"})
    choose(
        "multi-similarity added, memory of 256",
        model={"memory": 256},
        loss={"pair": "multi_similarity", "memory_for": "pair"},
    )
    choose("sub-centres", loss={"classifier": "subcenter"})
    choose("margin 0.3", loss={"margin": 0.3})
    choose("mean pooling", embed={"gem_p": 1.0, "gem_learned": False})
    choose("GeM, p = 3 frozen", embed={"gem_p": 3.0, "gem_learned": False})
    choose("a quarter of the epochs as views", phases=warmed)
    choose("three cycles at the end, averaged", phases=annealed, snapshots="average")
    choose("three cycles at the end, concatenated", phases=annealed, snapshots="concatenate")
    choose("replay of the hardest of 10", replay_every=10)
    return made


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Compare choices of an embedder's training.",
        argv,
        ("--only", "the base and this choice (again for more; default: all)", {"action": "append"}),
        ("--seeds", "train with so many seeds, from the config's own on (default: 1)", {"type": int, "default": 1}),
    )
    if options.seeds < 1:
        raise UserError(f"--seeds: expected 1 or more, found {options.seeds}.")
    config = config_of(options)
    trees = choices(config)
    if config.embedders[0].seed + options.seeds > SEEDS:
        raise UserError(f"--seeds: expected seeds below {SEEDS}, found {options.seeds} from {config.embedders[0].seed} on.")
    unknown = sorted(set(options.only or []) - set(trees))
    if unknown:
        raise UserError(f"--only: expected some of {', '.join(trees)}, found {', '.join(unknown)}.")
    dataset = read_dataset(options.data, config.data)
    trained = tuple(trees[BASE]["embed_train"]["parts"])  # by the first letters of their names
    parts = sorted(part for part in set(dataset.media.part) if not part.startswith(trained))
    if not parts:
        raise UserError(f"{options.data}: expected a part that is not trained on, found {', '.join(trained)} alone.")
    content = fingerprint(content_fingerprint(dataset))
    path = options.work / "choices.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not options.fresh else {}
    asked = [name for name in trees if not options.only or name in (BASE, *options.only)]
    seeds, refused = [config.embedders[0].seed + number for number in range(options.seeds)], set()
    for seed, name in itertools.product(seeds, asked):
        tree = trees[name] | {"embedders": [trees[name]["embedders"][0] | {"seed": seed}]}
        depends = fingerprint({"config": tree, "data": content})
        if name in refused or found.get(name, {}).get(str(seed), {}).get("fingerprint") == depends:
            continue
        log.info("%s, seed %d", name, seed)
        try:
            figures = train_and_judge(options, tree, options.work / f"choice{list(trees).index(name)}_{seed}", parts)
        except UserError as error:
            if name == BASE:
                raise
            log.warning("%s: left out: %s", name, error)
            refused.add(name)
        else:
            found.setdefault(name, {})[str(seed)] = {"fingerprint": depends, "config": tree, **figures}
            write_json(path, found)
    print(table({name: [found[name][str(seed)] for seed in seeds] for name in asked if name not in refused}, parts))


def train_and_judge(options, tree: dict, folder: Path, parts: list[str]) -> dict:
    """{cpu_seconds, parts: {part: the ensemble's figures}} of the model that a config's tree trains into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left would spoil the time
    folder.mkdir(parents=True)
    config = folder / "config.yaml"
    text = dump_config(Config.model_validate(tree))
    write_whole(config, lambda beside: beside.write_text(text, encoding="utf-8"))
    paths = ["--config", str(config), "--data", str(options.data), "--weights", str(folder / "weights")]
    training = [*paths, "--work", str(options.work)]
    with contextlib.ExitStack() as held:  # what is cut out of the data first is no part of the time
        ready = parse_options("", training)
        metric_sub.train.prepare(ready, config_of(ready), 1, held)
    started = cpu_seconds()
    metric_sub.train.main(training)
    seconds, figures = cpu_seconds() - started, {}
    for part in parts:
        metric_sub.judge.main([*paths, "--work", str(folder / part), "--part", part])
        judged = json.loads((folder / part / "evaluation" / "embedders.json").read_text(encoding="utf-8"))
        figures[part] = judged["ensemble"]
    return {"cpu_seconds": seconds, "parts": figures}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended: other work on the machine does not lengthen it."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def table(found: dict[str, list[dict]], parts: list[str]) -> str:
    """A row for each choice: recall@1, mAP@R and S1 by part, and the training's CPU time as a multiple of the base's.

    found: for each choice the runs with one seed each, in the same order; the first is the base. With several seeds a cell has
    the mean, and in brackets the least and the greatest of the differences from the base with the same seed.
    """
    columns = [(part, section, name) for part in parts for section, name in FIGURES]
    head = "".join(f" | {part} recall@1 | mAP@R | S1" for part in parts)
    lines = [f"| choice{head} | CPU time |", f"|---{'|---' * len(columns)}|---|"]
    base = next(iter(found.values()))
    for choice, runs in found.items():
        row = [choice]
        for part, section, name in columns:
            values, of_base = ([run["parts"][part][section][name] for run in side] for side in (runs, base))
            gained = [value - other for value, other in zip(values, of_base, strict=True)]
            spread = f" ({min(gained):+.3f} to {max(gained):+.3f})" if runs is not base and len(runs) > 1 else ""
            row.append(f"{mean(values):.3f}{spread}")
        row.append(f"{sum(run['cpu_seconds'] for run in runs) / sum(run['cpu_seconds'] for run in base):.2f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry(main)
