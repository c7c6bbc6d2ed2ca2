"""Trains the detector: `python -m bbox_sub.train --config C --data D --work W`.

Writes <work>/weights/detector (weights.safetensors, model.json, log.csv, curves.png), best mAP first served. A killed run
goes on at its last checkpoint; a finished one is reused unless config or data changed.
"""

import logging
import math

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch.utils.data import DataLoader

from bbox_sub.body import preprocessing
from bbox_sub.detector import build_detector
from bbox_sub.evaluate import evaluate_detector
from bbox_sub.targets import DetectorBatches, count_boxes, labelled_pictures
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, save_config
from shared.dataset import content_fingerprint, read_dataset, split_parts, train_and_validation
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from shared.progress import progress_bar
from shared.training import Checkpoint, Record, average_of, finished, make_optimizer, mark_finished, warmup_cosine
from shared.weights import save_weights
from shared.work import locked

log = logging.getLogger("detector")

RUN_KEYS = {"workers", "checkpoint_every"}  # how a run is carried out, not what comes of it


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Train the detector (stage 1).", argv)
    config = config_of(options)
    use_threads(config.threads)
    with locked(options.work):
        dataset = read_dataset(options.data)
        parts = train_and_validation(
            dataset, config.detector_train.parts, config.data.validation_parts, config.data.holdout
        )
        folder = options.weights / "detector"
        used = split_parts(dataset, config.training_parts)
        depends = {
            "detector": config.detector.model_dump(),
            "train": config.detector_train.model_dump(exclude=RUN_KEYS),
            "judged_at": [config.detect.video_short_side, config.detect.max_side],
            "seed": config.seed,
            "data": config.data.model_dump(),
            **content_fingerprint(used),
        }
        save_config(options.weights, config)
        if finished(folder, depends) and not options.fresh:
            log.info("%s: reused, it was trained with this config on this data", folder)
            return
        pictures = extract_labelled_frames(used, options.work, config.data.max_pixels, options.fresh)
        sides = [
            labelled_pictures(
                pictures[pictures.media_id.isin(part.media.media_id)],
                part.labels,
                config.detector.categories,
                config.data.label_aliases,
            )
            for part in parts
        ]
        for pictures_of_side, name in zip(sides, ("training", "validation"), strict=True):
            if not pictures_of_side:
                raise UserError(
                    f"{options.data}: no labelled photo or frame for {name}: expected image_annotation/ and video_annotation/ there."
                )
        train_detector(config, *sides, folder, depends, options.fresh)


def train_detector(
    config: Config, train_pictures: list, validation_pictures: list, folder, depends: dict, fresh: bool
) -> None:
    """The training loop. Leaves the finished model in `folder`."""
    settings = config.detector_train
    count_boxes(train_pictures)
    accelerator = Accelerator(mixed_precision=settings.precision)
    set_seed(config.seed)
    model = build_detector(
        config.detector,
        load_pretrained=True,
        proposals_sampled=settings.proposals_sampled,
    )
    model = model.to(memory_format=torch.channels_last)
    batches = DetectorBatches(train_pictures, config)
    rates = [
        phase.learning_rate
        * warmup_cosine(step, phase.iterations, min(settings.warmup_iterations, phase.iterations - 1))
        for phase in settings.phases
        for step in range(phase.iterations)
    ]
    optimizer = make_optimizer(settings.optimizer, model, rates[0], settings.weight_decay, settings.momentum)
    model, optimizer = accelerator.prepare(model, optimizer)
    average = average_of(accelerator.unwrap_model(model), settings.ema)
    checkpoint = Checkpoint(
        folder, depends, {"model": accelerator.unwrap_model(model), "optimizer": optimizer, "average": average}
    )
    progress = {} if fresh else checkpoint.load()
    start, best = progress.get("step", 0), progress.get("best", -1.0)
    record = Record(folder, start)
    loader = DataLoader(  # not accelerate's: that one would leave our sampler, and so the steps done, aside
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=settings.workers,
        prefetch_factor=2 if settings.workers else None,
    )
    evaluate_every = settings.evaluate_every * batches.steps_per_epoch
    losses: list[float] = []
    with progress_bar(total=len(batches), title="detector", unit="step", done=start) as bar:
        for step, batch in enumerate(loader, start):
            images, targets = send_to_device(batch, accelerator.device)
            torch.manual_seed(config.seed + step)  # torchvision samples proposals at random
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            with accelerator.autocast():
                parts = model(images, targets)
            loss = sum(parts.values())
            accelerator.backward(loss)
            if settings.clip_gradient:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip_gradient)
            optimizer.step()
            optimizer.zero_grad()
            if average:
                average.update_parameters(accelerator.unwrap_model(model))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"detector_train.phases: the loss became {losses[-1]} at step {step}. Lower the learning_rate, or raise warmup_iterations."
                )
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}", refresh=False)
            record.note(step, loss=losses[-1], rate=rates[step], **{name: part.item() for name, part in parts.items()})
            last = step + 1 == len(batches)
            if (step + 1) % evaluate_every == 0 or last:
                judged = average.module if average else accelerator.unwrap_model(model)
                metrics = evaluate_detector(judged, validation_pictures, config)
                epoch = (step + 1) / batches.steps_per_epoch
                epoch_losses = losses[-evaluate_every:]
                log.info(
                    "epoch %.1f: loss %.3f, mAP %.3f, AP50 %.3f, AR %.3f",
                    epoch,
                    sum(epoch_losses) / len(epoch_losses),
                    *metrics.values(),
                )
                record.note(step, **metrics)
                if metrics["mAP"] >= best:
                    best = metrics["mAP"]
                    description = {
                        "kind": "detector",
                        "architecture": config.detector.model_dump(),
                        "metrics": metrics,
                        "epoch": epoch,
                        **preprocessing(config.detector),
                    }
                    save_weights(folder, judged, description)
            if (step + 1) % settings.checkpoint_every == 0 and not last:
                record.flush()
                checkpoint.save(step=step + 1, best=best)
    record.draw()
    mark_finished(folder, depends)
    checkpoint.drop()


if __name__ == "__main__":
    run_entry(main)
