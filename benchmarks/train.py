"""Pictures per second of both trainings against plain loops over the same batches, networks and losses.

    bash run.sh bench train --config configs/cpu.yaml --data DATA [--steps 30] [--rounds 3]

The plain loops make each batch where they train on it and compute in float32; ours are the verb's own processes, whose steps' times
stand in their TensorBoard events. The mean of the steps, evaluation and start-up left out: workers that read ahead bring batches in
bursts, of which a median would take the quick ones. The trainings run in turns, each in processes of its own, all with memory and
threads as run.sh sets them. Peak memory is that of the steps; ours, seen every 0.5 s, is that of all its processes, evaluation included,
and what its workers share with it counts once.
"""

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import bbox_sub.train
from bbox_sub.detector import build_detector
from bbox_sub.targets import DetectorBatches
from benchmarks._plain_pooling import pooling_plainly
from benchmarks._runs import run_measured
from benchmarks.side_by_side import Child, Measured, forget_peak, publish, report_of
from metric_sub.batches import EmbedderBatches
from metric_sub.embedder import build_embedder
from metric_sub.losses import build_loss
from metric_sub.training_crops import crops_for, cut_training_crops
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, dump_config
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from shared.training import make_optimizer, training_data

JUDGED = ("mAP", "recall_at_1")  # what a training notes where it is judged
WARM_UP = 3  # steps whose time does not count: workers start, memory is taken


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Time both trainings against plain loops.",
        argv,
        ("--steps", "of the detector's training and of each plain loop (default: 30)", {"type": int, "default": 30}),
        ("--rounds", "how often each trains (default: 3)", {"type": int, "default": 3}),
        ("--json", "also write the figures into this file"),
    )
    if options.steps <= WARM_UP + 1:
        raise UserError(f"--steps: expected {WARM_UP + 2} or more, found {options.steps}.")
    config = shortened(config_of(options), options.steps)
    use_threads(config.threads)
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.weights = Path(scratch)
        config_file = options.work / "short.yaml"
        config_file.write_text(dump_config(config), encoding="utf-8")
        loops = {"detector": plain_detector, "embedder": plain_embedder}
        modules = {"detector": "bbox_sub.train", "embedder": "metric_sub.train"}
        batch = {"detector": config.detector_train.phases[0].batch_size, "embedder": config.embedders[0].batch_size}
        name = {"detector": "detector", "embedder": config.embedders[0].name}
        measured = {stage: {"plain": Measured(), "vid2shop": Measured()} for stage in modules}
        with contextlib.ExitStack() as children:
            plain = {}
            for stage, loop in loops.items():
                child = Child(partial(prepare, loop, config, options), config.threads)
                plain[stage] = children.enter_context(contextlib.closing(child))
            for number, stage in itertools.product(range(options.rounds), modules):
                *_, moments = plain[stage].call()
                measured[stage]["plain"].seconds.append(mean_step(moments))
                weights, whole = options.work / f"weights-{number}", Measured()
                arguments = ["--config", config_file, "--data", options.data, "--work", options.work, "--weights", weights]
                run_measured(modules[stage], arguments, whole, shared_once=True)
                ours = measured[stage]["vid2shop"]
                ours.seconds.append(mean_step(*step_times(weights / name[stage])))
                ours.peak_bytes = max(ours.peak_bytes or 0, whole.peak_bytes)
            for stage, child in plain.items():
                measured[stage]["plain"].peak_bytes = child.peak_bytes()
    reports = []
    for stage, sides in measured.items():
        for side in sides.values():
            side.processor_seconds = [0.0]  # data workers have their own: nothing that one could compare
        report = report_of(f"train {stage}", sides, base="plain", unit="picture", per_call=batch[stage])
        for row in report["sides"].values():
            row["pictures per second"] = 1 / row["seconds"]
            del row["processor_seconds"]
        reports.append(report)
    publish(reports, options.json)


def shortened(config: Config, steps: int) -> Config:
    """The config with one phase of so many iterations, one embedder of two epochs, and nothing kept in between."""
    detector_train = config.detector_train
    phase = detector_train.phases[0].model_copy(update={"iterations": steps, "start": "last"})
    seldom = {"checkpoint_every": 10**9, "replay_every": 0}
    return config.model_copy(
        update={
            "detector_train": detector_train.model_copy(
                update={"phases": [phase], "checkpoint_every": 10**9, "evaluate_every": 10**9, "evaluate_pictures": 1}
            ),
            "embedders": [config.embedders[0].model_copy(update={"epochs": 2})],
            "embed_train": config.embed_train.model_copy(update=seldom),
        }
    )


def prepare(loop: Callable[..., Iterator[None]], config: Config, options: argparse.Namespace) -> Callable[[], list[float]]:
    """A function that makes so many steps more and gives the moments, in seconds, at which they end."""
    steps = loop(config, options)

    def more_steps() -> list[float]:
        moments = []
        for _ in itertools.islice(steps, options.steps):
            if not moments:
                forget_peak()  # pictures and crops were cut before the first step
            moments.append(time.perf_counter())
        return moments

    return more_steps


def plain_detector(config: Config, options: argparse.Namespace) -> Iterator[None]:
    """A step of the detector's plain loop for each item that is taken."""
    used, (part, _) = training_data(options, config, config.detector_train.parts)
    cut = extract_labelled_frames(used, options.work, config.data, fresh=False)
    batches = DetectorBatches(bbox_sub.train.pictures_of(part, cut, config), config)
    settings = config.detector_train
    network = build_detector(config.detector, load_pretrained=False, proposals_sampled=settings.proposals_sampled)
    network = pooling_plainly(network).train()
    optimizer = make_optimizer(
        settings.optimizer, network, settings.phases[0].learning_rate, settings.weight_decay, settings.momentum
    )
    for step in itertools.count():
        images, targets, _ = batches[step % len(batches)]
        loss = sum(network(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def plain_embedder(config: Config, options: argparse.Namespace) -> Iterator[None]:
    """A step of the first embedder's plain loop for each item that is taken."""
    model = config.embedders[0]
    settings = config.train_of(model)
    used, (part, _) = training_data(options, config, config.embed_train.parts)
    pictures = extract_labelled_frames(used, options.work, config.data, fresh=False)
    crops = cut_training_crops(used, pictures, config, options.work, fresh=False)
    crops = crops_for(crops[crops.media_id.isin(part.media.media_id)].reset_index(drop=True), settings)
    batches = EmbedderBatches(crops, config, model)
    network = build_embedder(model, config.embed, load_pretrained=False).train()
    loss_of = build_loss(settings.loss, batches.n_classes, config.embed.dimension, model.memory)
    learners = nn.ModuleList([network, loss_of])
    optimizer = make_optimizer(
        settings.optimizer, learners, settings.phases[0].learning_rate, settings.weight_decay, momentum=0.9
    )
    for step in itertools.count():
        batch = batches[step % len(batches)]
        loss = loss_of(network(batch.images), batch.classes, batch.other_classes, batch.share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def step_times(folder: Path) -> tuple[list[float], set[int]]:
    """The moments, in seconds, at which the steps of a training ended, and the steps after which it was judged, from its TensorBoard
    events."""
    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}).Reload()
    judged = {event.step for name in JUDGED if name in events.Tags()["scalars"] for event in events.Scalars(name)}
    return [event.wall_time for event in events.Scalars("loss")], judged


def mean_step(moments: list[float], judged: Collection[int] = ()) -> float:
    """The mean of the seconds from one moment to the next. The first do not count, nor those in which the training was judged."""
    steps = enumerate(itertools.pairwise(moments))
    counted = [end - begin for step, (begin, end) in steps if step >= WARM_UP and step not in judged]
    if not counted:
        raise UserError(f"of {len(moments)} steps none can be timed: expected more than {WARM_UP + 1}. Name a larger data set with --data.")
    return statistics.mean(counted)


if __name__ == "__main__":
    run_entry(main)
