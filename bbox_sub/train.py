"""Trains the detector: `python -m bbox_sub.train --config C --data D --work W`, in several processes by accelerate's launcher.

Writes <work>/weights/detector (weights.safetensors, model.json, log.csv, curves.png), best mAP first served. A killed run
goes on at its last checkpoint; a finished one is reused unless config or data changed.
"""

import argparse
import contextlib
import itertools
import logging
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import broadcast, send_to_device, set_seed
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from bbox_sub.body import preprocessing
from bbox_sub.detector import INFERENCE_KEYS, build_detector
from bbox_sub.evaluate import evaluate_detector
from bbox_sub.shares import BatchShares, WholeBatch
from bbox_sub.targets import DetectorBatches, LabelledPicture, count_boxes, labelled_pictures
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, DetectorTrain, save_config
from shared.dataset import Dataset, content_fingerprint
from shared.earlier import keep_earlier
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from shared.processes import from_main, several_processes
from shared.progress import progress_bar
from shared.training import (
    LIMITS,
    RUN_KEYS,
    Best,
    Checkpoint,
    Record,
    accelerator_of,
    average_of,
    batch_loader,
    begin_anew,
    finished,
    forget_finished,
    hold_for_training,
    make_optimizer,
    mark_finished,
    tell_precision,
    training_data,
    warmup_cosine,
)
from shared.weights import PROJECT, load_weights, read_description, refuse_other_architecture, save_weights

log = logging.getLogger("detector")

PRECISION = "detector_train.precision"


def main(argv: list[str] | None = None) -> None:
    with several_processes() as processes, contextlib.ExitStack() as held:
        options = from_main(lambda: parse_options("Train the detector (stage 1).", argv))
        config = from_main(lambda: config_of(options))
        use_threads(config.threads)
        prepared = from_main(lambda: prepare(options, config, processes.num_processes, held))
        if prepared:
            train_detector(config, *prepared, options.weights / "detector", options.fresh)


def prepare(
    options: argparse.Namespace, config: Config, n_processes: int, held: contextlib.ExitStack
) -> tuple[list[LabelledPicture], list[LabelledPicture], dict[str, int], dict] | None:
    """The pictures to train on, those to validate on, their counts, and what the training depends on; None where it is done.

    Takes the work folder's lock into `held`, cuts out the labelled frames. Raises UserError for what cannot be trained.
    """
    tell_precision(config.detector_train.precision, PRECISION)
    check_batch_sizes(config.detector_train, n_processes)
    if n_processes > 1 and config.detector.engine == "detectron2":
        raise UserError(
            f"detector.engine: detectron2 trains in one process, found {n_processes}. Use engine torchvision."
        )
    starts = start_weights(config)
    hold_for_training(options, held)
    folder = options.weights / "detector"
    keep_start_weights(config, folder, options.fresh)
    used, parts = training_data(options, config, config.detector_train.parts)
    depends = {
        "detector": config.detector.model_dump(),
        "train": config.detector_train.model_dump(exclude=RUN_KEYS),
        "starts": starts,
        "judged_at": [config.detect.video_short_side, config.detect.max_side],
        "seed": config.seed,
        "data": config.data.model_dump(exclude=LIMITS),
        **content_fingerprint(used),
    }
    if not options.fresh:
        keep_earlier(options.weights, {folder: depends}, config)
    reused = finished(folder, depends) and not options.fresh
    # Where the detector stays, stage 2 may have to keep its models beside the config that they were trained with.
    if not reused or not any((options.weights / model.name / "model.json").is_file() for model in config.embedders):
        save_config(options.weights, config)
    if reused:
        log.info("%s: reused, it was trained with this config on this data", folder)
        return None
    if options.fresh:
        forget_finished(folder)
    cut = extract_labelled_frames(used, options.work, config.data, options.fresh)
    sides = [pictures_of(part, cut, config) for part in parts]
    for pictures, name in zip(sides, ("training", "validation"), strict=True):
        if not pictures:
            raise UserError(
                f"{options.data}: no labelled photo or frame for {name}: expected image_annotation/ and video_annotation/ there."
            )
    warn_of_paste(config.detector_train, sides[0])
    return *sides, count_boxes(sides[0], config.data.max_pixels), depends


def pictures_of(part: Dataset, cut: pd.DataFrame, config: Config) -> list[LabelledPicture]:
    """The labelled pictures of one side of the data; `cut` is the table of all, from `extract_labelled_frames`."""
    rows = cut[cut.media_id.isin(part.media.media_id)]
    pictures = labelled_pictures(rows, part.labels, config.detector.categories, config.data.label_aliases)
    are_photos = rows.media_id.isin(part.media.media_id[part.media.kind == "photo"])
    return [replace(picture, is_photo=bool(is_photo)) for picture, is_photo in zip(pictures, are_photos, strict=True)]


def warn_of_paste(settings: DetectorTrain, pictures: list[LabelledPicture]) -> None:
    """Says so where detector_train.paste can have no effect."""
    if settings.paste and not any(picture.is_photo and len(picture.labels) for picture in pictures):
        log.warning("detector_train.paste: nothing is pasted, since no photo has a labelled box")
    elif settings.paste and all(picture.is_photo for picture in pictures):
        log.warning("detector_train.paste: nothing is pasted, since there are no frames of videos; a COCO file has photos alone")


def check_batch_sizes(settings: DetectorTrain, n_processes: int) -> None:
    """Raises UserError where a phase's batch cannot be shared evenly."""
    for number, phase in enumerate(settings.phases):
        if phase.batch_size % n_processes:
            raise UserError(
                f"detector_train.phases.{number}.batch_size: expected a multiple of {n_processes}, the number of "
                f"processes, found {phase.batch_size}. Change it, or start another number of processes."
            )


def start_folder(start: str) -> Path | None:
    """The model's folder that a phase starts from; None for a start within the run."""
    if start in ("last", "best"):
        return None
    return Path(start) if Path(start).exists() else PROJECT / start


def start_weights(config: Config) -> dict[str, str]:
    """The SHA-256 of the weights that phases start from, by their folder. Raises UserError where one does not fit."""
    found, free = {}, INFERENCE_KEYS | {"pretrained"}
    for number, phase in enumerate(config.detector_train.phases):
        if folder := start_folder(phase.start):
            try:
                description = read_description(folder)
                trained, configured = description["architecture"], config.detector.model_dump()
                refuse_other_architecture(
                    folder,
                    trained,
                    configured,
                    free if "group" in (trained.get("norm"), configured["norm"]) else free | {"norm"},
                )
            except UserError as error:
                raise UserError(
                    f"detector_train.phases.{number}.start: expected last, best or the folder of a detector like the "
                    f"config's, found {phase.start!r}: {error}"
                ) from None
            found[phase.start] = description["sha256"]
    return found


def keep_start_weights(config: Config, folder: Path, fresh: bool) -> None:
    """Raises UserError where the training would write over weights that it starts from, or over imported ones."""
    for number, phase in enumerate(config.detector_train.phases):
        start = start_folder(phase.start)
        if start and start.resolve() == folder.resolve():
            raise UserError(
                f"detector_train.phases.{number}.start: {phase.start} is where this training writes. Move that folder "
                "elsewhere, for example to start/detector, and name it there."
            )
    if (folder / "model.json").is_file() and "imported" in read_description(folder) and not fresh:
        raise UserError(
            f"{folder}: holds imported weights, which the training would write over. Move the folder elsewhere and name it in "
            "detector_train.phases.0.start to train from it, or give --fresh to train without it."
        )


def learning_rates(settings: DetectorTrain) -> list[float]:
    """The learning rate of every step: warm-up and cosine for each phase."""
    return [
        phase.learning_rate
        * warmup_cosine(step, phase.iterations, min(settings.warmup_iterations, phase.iterations - 1))
        for phase in settings.phases
        for step in range(phase.iterations)
    ]


def training_network(config: Config) -> GeneralizedRCNN:
    """The detector as it is before the first step."""
    network = build_detector(
        config.detector,
        load_pretrained=True,
        proposals_sampled=config.detector_train.proposals_sampled,
    )
    return network.to(memory_format=torch.channels_last)


def warn_of_batch_norm(network: GeneralizedRCNN, n_processes: int) -> None:
    if n_processes > 1 and any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules()):
        log.warning(
            "batch norms in %d processes: each normalises by its own share of the batch, and the main one's running means are kept",
            n_processes,
        )


def begin_phase(
    number: int,
    settings: DetectorTrain,
    network: GeneralizedRCNN,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    best: Best,
) -> None:
    """Puts the network where the phase starts and makes optimiser and average as new."""
    phase = settings.phases[number]
    if folder := start_folder(phase.start):
        load_weights(folder, network)
    if phase.start == "best":
        if best.weights is not None:  # the other processes may hold older ones, or none
            network.load_state_dict(best.weights)
        broadcast(network.state_dict())
    begin_anew(optimizer, average)
    log.info(
        "phase %d of %d: %d iterations of %d pictures from the %s weights",
        number + 1,
        len(settings.phases),
        phase.iterations,
        phase.batch_size,
        phase.start,
    )


def train_detector(
    config: Config,
    train_pictures: list[LabelledPicture],
    validation_pictures: list[LabelledPicture],
    counts: dict[str, int],
    depends: dict,
    folder: Path,
    fresh: bool,
) -> None:
    """The training loop. Leaves the finished model in `folder`, written by the main process."""
    settings = config.detector_train
    accelerator = accelerator_of(settings.precision, PRECISION)
    set_seed(config.seed)
    batches = DetectorBatches(train_pictures, config, accelerator.process_index, accelerator.num_processes)
    rates = learning_rates(settings)
    phase_begins = list(itertools.accumulate((phase.iterations for phase in settings.phases), initial=0))
    network = training_network(config)
    warn_of_batch_norm(network, accelerator.num_processes)
    shares_of = BatchShares if config.detector.engine == "torchvision" else WholeBatch
    shares = shares_of(network, accelerator, config.seed)
    optimizer = make_optimizer(settings.optimizer, network, rates[0], settings.weight_decay, settings.momentum)
    model, optimizer = accelerator.prepare(network, optimizer)
    average = average_of(network, settings.ema)
    best = Best(keeps_weights=any(phase.start == "best" for phase in settings.phases))
    state = {"model": network, "optimizer": optimizer, "average": average, "scaler": accelerator.scaler, "best": best}
    checkpoint = Checkpoint(folder, depends, state, settings.keep_checkpoints)
    start = 0 if fresh else checkpoint.load()
    record = Record(folder, start) if accelerator.is_main_process else None
    losses: list[float] = []
    with progress_bar(total=len(batches), title="detector", unit="step", done=start) as bar:
        for step, batch in enumerate(batch_loader(batches, start, settings.workers), start):
            if step in phase_begins:
                begin_phase(phase_begins.index(step), settings, network, optimizer, average, best)
            images, targets, canvas_hw = send_to_device(batch, accelerator.device)
            shares.begin(step, len(images), canvas_hw)
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            with accelerator.autocast():
                parts = model(images, targets)
            parts = shares.weigh(parts)
            accelerator.backward(sum(parts.values()))
            if settings.clip_gradient:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip_gradient)
            optimizer.step()
            optimizer.zero_grad()
            if average:
                average.update_parameters(network)
            values = accelerator.reduce(torch.stack([*parts.values()]).detach().float(), "mean").tolist()
            if not accelerator.is_main_process:
                continue
            losses.append(sum(values))
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"detector_train.phases: the loss became {losses[-1]} at step {step}. Lower the learning_rate, or raise warmup_iterations."
                )
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}", refresh=False)
            record.note(step, loss=losses[-1], rate=rates[step], **dict(zip(parts, values, strict=True)))
            done = step + 1
            epoch, epoch_before = batches.epochs_before(done), batches.epochs_before(step)
            if epoch // settings.evaluate_every > epoch_before // settings.evaluate_every or done in phase_begins:
                judged = average.module if average else network
                metrics = evaluate_detector(judged, validation_pictures, config)
                log.info("epoch %.1f: mAP %.3f, AP50 %.3f, AR %.3f", epoch, *metrics.values())
                record.note(step, **metrics)
                if best.improved_by(metrics["mAP"], judged):
                    save_weights(folder, judged, description_of(judged, config, metrics, epoch, counts))
            if done % settings.checkpoint_every == 0 and done < len(batches):
                record.flush()
                checkpoint.save(done)
    if accelerator.is_main_process:
        record.draw(phase_begins[1:-1])
        mark_finished(folder, depends)
        checkpoint.drop()


def description_of(
    judged: GeneralizedRCNN, config: Config, metrics: dict[str, float], epoch: float, counts: dict[str, int]
) -> dict:
    """model.json of a trained detector."""
    return {
        "kind": "detector",
        "architecture": config.detector.model_dump(),
        "metrics": metrics,
        "epoch": epoch,
        "data": counts,
        **preprocessing(config.detector),
    }


if __name__ == "__main__":
    run_entry(main, lower="detector_train.phases.*.batch_size or .short_sides, or detector_train.workers")
