"""Trains the embedders, one after the other: `python -m metric_sub.train --config C --data D --work W`.

Writes <work>/weights/<name> for each (weights.safetensors, model.json, log.csv, curves.png), best recall@1 first served. A killed
run goes on at its last checkpoint; finished models are reused unless config or data changed.
"""

import logging
import math
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed

from metric_sub.batches import EmbedderBatches
from metric_sub.embedder import INFERENCE_KEYS, InputRule, TrainedEmbedder, build_embedder, describe_embedder
from metric_sub.evaluate import recall_at_1
from metric_sub.losses import EmbeddingMemory, build_arcface
from metric_sub.training_crops import cut_training_crops
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Embedder
from shared.dataset import content_fingerprint
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from shared.progress import progress_bar
from shared.training import (
    Best,
    Checkpoint,
    Record,
    average_of,
    batch_loader,
    check_precision,
    finished,
    make_optimizer,
    mark_finished,
    training_data,
    warmup_cosine,
)
from shared.weights import save_weights
from shared.work import locked

log = logging.getLogger("embedder")

RUN_KEYS = {"workers", "checkpoint_every", "keep_checkpoints"}  # how a run is carried out, not what comes of it


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Train the embedders (stage 2).", argv)
    config = config_of(options)
    use_threads(config.threads)
    check_precision(config.embed_train.precision, "embed_train.precision")
    with locked(options.work):
        used, parts = training_data(options, config, config.embed_train.parts)
        models = [
            (
                model,
                {
                    "model": model.model_dump(),
                    "embed": config.embed.model_dump(exclude=INFERENCE_KEYS),
                    "train": config.embed_train.model_dump(exclude=RUN_KEYS),
                    "data": config.data.model_dump(),
                    **content_fingerprint(used),
                },
            )
            for model in config.embedders
        ]
        left = [
            (model, depends)
            for model, depends in models
            if options.fresh or not finished(options.weights / model.name, depends)
        ]
        for model, depends in models:
            if (model, depends) not in left:
                log.info("%s: reused, it was trained with this config on this data", options.weights / model.name)
        if not left:
            return
        pictures = extract_labelled_frames(used, options.work, config.data.max_pixels, fresh=False)
        crops = cut_training_crops(used, pictures, config, options.work, options.fresh)
        train_crops, validation_crops = (
            crops[crops.media_id.isin(part.media.media_id)].reset_index(drop=True) for part in parts
        )
        validation_crops = validation_crops[validation_crops["product"] > 0]
        if not (train_crops["product"] > 0).any():
            raise UserError(
                f"{options.data}: no labelled product to train on: expected boxes with instance_id above 0 in the training parts."
            )
        for model, depends in left:
            train_embedder(
                config, model, train_crops, validation_crops, options.weights / model.name, depends, options.fresh
            )


def train_embedder(
    config: Config,
    model: Embedder,
    train_crops: pd.DataFrame,
    validation_crops: pd.DataFrame,
    folder: Path,
    depends: dict,
    fresh: bool,
) -> None:
    """The training loop of one model. Leaves the finished model in `folder`."""
    settings = config.embed_train
    accelerator = Accelerator(mixed_precision=settings.precision)
    set_seed(model.seed)
    batches = EmbedderBatches(train_crops, config, model)
    log.info(
        "%s: %d crops of %d products, %d epochs of %d steps",
        model.name,
        len(train_crops),
        batches.n_classes,
        model.epochs,
        batches.steps_per_epoch,
    )
    net = build_embedder(model, config.embed, load_pretrained=True).to(memory_format=torch.channels_last)
    arcface = build_arcface(settings.loss, batches.n_classes, config.embed.dimension)
    memory = EmbeddingMemory(model.memory, config.embed.dimension).to(accelerator.device)
    optimizer = make_optimizer(
        settings.optimizer,
        torch.nn.ModuleList([net, arcface]),
        settings.phases[0].learning_rate,
        settings.weight_decay,
        momentum=0.9,
    )
    net, arcface, optimizer = accelerator.prepare(net, arcface, optimizer)
    average = average_of(accelerator.unwrap_model(net), settings.ema)
    best = Best(keeps_weights=False)
    checkpoint = Checkpoint(
        folder,
        depends,
        {
            "net": accelerator.unwrap_model(net),
            "arcface": accelerator.unwrap_model(arcface),
            "memory": memory,
            "optimizer": optimizer,
            "average": average,
            "scaler": accelerator.scaler,
            "best": best,
        },
        settings.keep_checkpoints,
    )
    start = 0 if fresh else checkpoint.load()
    record = Record(folder, start)
    n_warmup = round(settings.warmup * len(batches))
    losses: list[float] = []
    with progress_bar(total=len(batches), title=model.name, unit="step", done=start) as bar:
        for step, batch in enumerate(batch_loader(batches, start, settings.workers), start):
            images, classes, *_ = send_to_device(batch, accelerator.device)
            torch.manual_seed(model.seed + step)  # for backbones with dropout
            net.train()
            rate = settings.phases[0].learning_rate * warmup_cosine(step, len(batches), n_warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with accelerator.autocast():
                embeddings = net(images.contiguous(memory_format=torch.channels_last))  # (B, D)
            loss = arcface(*memory.join(embeddings.float(), classes))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if average:
                average.update_parameters(accelerator.unwrap_model(net))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise UserError(
                    f"embed_train.learning_rate: the loss of {model.name} became {losses[-1]} at step {step}. Lower it, or raise warmup."
                )
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}", refresh=False)
            record.note(step, loss=losses[-1], rate=rate)
            if (step + 1) % batches.steps_per_epoch == 0:
                epoch = (step + 1) // batches.steps_per_epoch
                judged = average.module if average else accelerator.unwrap_model(net)
                judged.eval()
                trained = TrainedEmbedder(judged, InputRule.of(model, config.embed).crop_rule(config.embed), flip=False)
                recall = recall_at_1(trained, validation_crops, config.embed.batch_size, config.data.max_pixels)
                log.info(
                    "%s epoch %d of %d: loss %.3f, recall@1 %.3f",
                    model.name,
                    epoch,
                    model.epochs,
                    sum(losses[-batches.steps_per_epoch :]) / len(losses[-batches.steps_per_epoch :]),
                    recall,
                )
                record.note(step, recall_at_1=recall)
                if best.improved_by(recall, judged):
                    save_weights(
                        folder, judged, describe_embedder(judged, model, config.embed, {"recall_at_1": recall}, epoch)
                    )
            if (step + 1) % settings.checkpoint_every == 0 and step + 1 < len(batches):
                record.flush()
                checkpoint.save(step + 1)
    record.draw()
    mark_finished(folder, depends)
    checkpoint.drop()


if __name__ == "__main__":
    run_entry(main)
