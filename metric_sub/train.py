"""Trains the embedders, one after the other: `python -m metric_sub.train --config C --data D --work W`, in several processes
by accelerate's launcher.

Writes <work>/weights/<name> for each (weights.safetensors, model.json, log.csv, curves.png), best recall@1 first served, and
before them <work>/weights/whitening, where the config whitens a descriptor. A killed
run goes on at its last checkpoint; finished models are reused unless config or data changed.
"""

import argparse
import contextlib
import functools
import logging
import math
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast, send_to_device, set_seed
from timm.layers import convert_sync_batchnorm

from metric_sub.batches import Batch, EmbedderBatches, check_batch_size
from metric_sub.depthwise import with_quick_gradients
from metric_sub.embedder import (
    INFERENCE_KEYS,
    EmbeddingNet,
    InputRule,
    TrainedEmbedder,
    build_embedder,
    save_embedder,
)
from metric_sub.evaluate import recall_at_1
from metric_sub.losses import EmbeddingLoss, build_loss, views_loss
from metric_sub.plan import plan_of
from metric_sub.replay import HardestBatch
from metric_sub.snapshots import Snapshots, average_networks
from metric_sub.training_crops import crops_for, cut_training_crops, room_and_side
from metric_sub.whitening import FOLDER as WHITENING
from metric_sub.whitening import architecture_of, train_whitening, whitening_of
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config, Embedder, EmbedPhase, EmbedTrain, Whitening, save_config
from shared.dataset import content_fingerprint
from shared.earlier import keep_earlier
from shared.errors import UserError
from shared.frames import extract_labelled_frames
from shared.processes import from_main, gather_rows, several_processes
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
    is_trained,
    make_optimizer,
    mark_finished,
    tell_precision,
    training_data,
)
from shared.weights import pretrained_sha256

log = logging.getLogger("embedder")

PRECISION = "embed_train.precision"
CHECK = ("--check", "look whether the config's embedders can be trained, and train nothing", {"action": "store_true"})
NORM_BATCHES = 100  # from which an average of snapshots takes its batch norms' statistics


def main(argv: list[str] | None = None) -> None:
    with several_processes() as processes, contextlib.ExitStack() as held:
        options = from_main(lambda: parse_options("Train the embedders (stage 2).", argv, CHECK))
        config = from_main(lambda: config_of(options))
        use_threads(config.threads)
        if options.check:
            return from_main(lambda: check(config, options.weights, processes.num_processes, options.fresh))
        models, *crops = from_main(lambda: prepare(options, config, processes.num_processes, held))
        for model, depends in models:
            train_embedder(config, model, *crops, options.weights / model.name, depends, options.fresh)


def check(config: Config, weights: Path, n_processes: int, fresh: bool) -> None:
    """Raises UserError for a model that could not be trained on any data.

    What timm would have to fetch is not asked for where a model is finished, and perhaps stays; a file is, since without it no model
    counts as trained with it.
    """
    for model in config.embedders:
        settings = config.train_of(model)
        tell_precision(settings.precision, PRECISION)
        check_batch_size(model, settings.phases, n_processes)
        stays = model.pretrained is True and not fresh and is_trained(weights / model.name)
        build_embedder(model, config.embed, load_pretrained=not stays)


def prepare(
    options: argparse.Namespace, config: Config, n_processes: int, held: contextlib.ExitStack
) -> tuple[list[tuple[Embedder, dict]], pd.DataFrame | None, pd.DataFrame | None]:
    """The models that are not finished, each with what its training depends on; the crops to train on and to validate on.

    Takes the work folder's lock into `held`, cuts out frames and crops, learns the descriptors' whitening. Raises UserError for what
    cannot be trained.
    """
    check(config, options.weights, n_processes, options.fresh)  # before anything is written over
    hold_for_training(options, held)
    used, parts = training_data(options, config, config.embed_train.parts)
    depends = {
        model.name: {
            "model": model.model_dump(exclude={"train"}),
            "pretrained": pretrained_sha256(model.pretrained),
            "embed": config.embed.model_dump(exclude=INFERENCE_KEYS),
            "train": _decisive(config.train_of(model)),
            "data": config.data.model_dump(exclude=LIMITS),
            **content_fingerprint(used),
        }
        for model in config.embedders
    }
    whitening, settings = options.weights / WHITENING, whitening_of(config.descriptors)
    learnt_from = settings and _learnt_from(settings, config, content_fingerprint(used))
    if not options.fresh:
        made_of = depends | ({WHITENING: learnt_from} if settings else {})
        keep_earlier(options.weights, {options.weights / name: of_it for name, of_it in made_of.items()}, config)
    save_config(options.weights, config)
    left = []
    for model in config.embedders:
        if finished(options.weights / model.name, depends[model.name]) and not options.fresh:
            log.info("%s: reused, it was trained with this config on this data", options.weights / model.name)
        else:
            left.append((model, depends[model.name]))
    whitens = settings is not None and (options.fresh or not finished(whitening, learnt_from))
    if not left and not whitens:
        return [], None, None
    for model, _ in left:  # what timm must fetch after all: before hours go into the first
        if model.pretrained is True:
            build_embedder(model, config.embed, load_pretrained=True)
    if options.fresh:
        for name in [*(model.name for model in config.embedders), WHITENING]:
            forget_finished(options.weights / name)
    pictures = extract_labelled_frames(used, options.work, config.data, fresh=False)
    crops = cut_training_crops(used, pictures, config, options.work, options.fresh)
    train_crops, validation_crops = (
        crops[crops.media_id.isin(part.media.media_id)].reset_index(drop=True) for part in parts
    )
    validation_crops = validation_crops[validation_crops["product"] > 0]  # the others serve as views alone
    if not (train_crops["product"] > 0).any():
        raise UserError(
            f"{options.data}: no labelled product to train on: expected boxes with instance_id above 0 in the training parts."
        )
    for model, _ in left:
        of_model = config.train_of(model)
        batches = EmbedderBatches(crops_for(train_crops, of_model), config, model, n_processes=n_processes)
        plan_of(of_model, batches.phase_begins)  # which refuses more cycles than steps
    if whitens:
        train_whitening(train_crops, settings, config.seed, config.data.max_pixels, whitening)
        mark_finished(whitening, learnt_from)
    return left, train_crops, validation_crops


def _learnt_from(settings: Whitening, config: Config, content: dict) -> dict:
    """What the whitening depends on; content: the fingerprint of the data."""
    return {
        "architecture": architecture_of(settings),
        "crops": room_and_side(config),
        "parts": config.embed_train.parts,
        "frames": config.embed_train.frames.model_dump(),
        "seed": config.seed,
        "data": config.data.model_dump(exclude=LIMITS),
        **content,
    }


def _decisive(settings: EmbedTrain) -> dict:
    """What of a model's settings decides what it becomes: augmentations that no phase of it uses may change, since they
    only give the pictures more room around the box."""
    used = {phase.augment: settings.augment[phase.augment].model_dump() for phase in settings.phases}
    return settings.model_dump(exclude=RUN_KEYS) | {"augment": used}


def training_network(config: Config, model: Embedder, accelerator: Accelerator) -> EmbeddingNet:
    """The network as it is before the first step; in several processes on GPUs its batch norms see the whole batch."""
    network = build_embedder(model, config.embed, load_pretrained=True).to(memory_format=torch.channels_last)
    if accelerator.device.type == "cpu":
        network = with_quick_gradients(network)
    if accelerator.num_processes > 1:
        if accelerator.device.type == "cuda":
            return convert_sync_batchnorm(network)  # timm's: torch's would drop the activations that timm's norms hold
        log.warning("%s: batch norms in several processes on the CPU see their own share of the batch", model.name)
    return network


def set_mode(network: EmbeddingNet, phase: EmbedPhase) -> None:
    """Training mode; a frozen backbone learns nothing and keeps its batch norms' statistics."""
    network.train()
    network.backbone.train(not phase.freeze_backbone)
    network.backbone.requires_grad_(not phase.freeze_backbone)


def backward(
    batch: Batch,
    phase: EmbedPhase,
    settings: EmbedTrain,
    net: torch.nn.Module,
    loss: EmbeddingLoss,
    accelerator: Accelerator,
    weight: float,
) -> float:
    """Adds `weight` times the gradients of the whole batch's loss, of which this process has a share; gives the loss.

    Embeddings are gathered first: classifier, pairs and memory see all of the batch in every process. Raises UserError where
    the loss is no number any more.
    """
    batch = send_to_device(batch, accelerator.device)
    embeddings = net(batch.images.contiguous(memory_format=torch.channels_last))  # (B, D)
    embeddings, classes, other_classes = map(gather_rows, (embeddings, batch.classes, batch.other_classes))
    if phase.task == "views":
        value = views_loss(embeddings, classes, settings.loss.temperature)
    else:
        value = loss(embeddings, classes, other_classes, batch.share)
    number = value.item()
    if not math.isfinite(number):
        raise UserError(f"embed_train.phases: the loss became {number}. Lower the learning_rate, or raise warmup.")
    accelerator.backward(value * weight)
    return number


def judge(
    networks: list[EmbeddingNet],
    epoch: float,
    config: Config,
    model: Embedder,
    crops: pd.DataFrame,
    folder: Path,
    best: Best,
) -> float:
    """recall@1 on the validation crops of a network, or of several joined; they become the model in `folder` if it is the best."""
    rule = InputRule.of(model, config.embed).crop_rule(config.embed)
    trained = [TrainedEmbedder(network.eval(), rule, flip=False) for network in networks]
    recall = recall_at_1(trained, crops, config.embed.batch_size, config.data.max_pixels)
    if best.improved_by(recall, networks[-1]):
        save_embedder(folder, networks, model, config.embed, {"recall_at_1": recall}, epoch)
    return recall


def train_embedder(
    config: Config,
    model: Embedder,
    train_crops: pd.DataFrame,
    validation_crops: pd.DataFrame,
    folder: Path,
    depends: dict,
    fresh: bool,
) -> None:
    """The training loop of one model. Leaves the finished model in `folder`, written by the main process."""
    settings = config.train_of(model)
    freezes = any(phase.freeze_backbone for phase in settings.phases)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=freezes)
    accelerator = accelerator_of(settings.precision, PRECISION, kwargs_handlers=[ddp])
    set_seed(model.seed)
    train_crops = crops_for(train_crops, settings)
    batches = EmbedderBatches(train_crops, config, model, accelerator.process_index, accelerator.num_processes)
    plan, per_epoch = plan_of(settings, batches.phase_begins), batches.steps_per_epoch
    log.info("%s: %d crops of %d products", model.name, len(train_crops), batches.n_classes)
    log.info("%s: %d epochs of %d steps", model.name, model.epochs, per_epoch)
    network = training_network(config, model, accelerator)
    loss = build_loss(settings.loss, batches.n_classes, config.embed.dimension, model.memory).to(accelerator.device)
    learners = torch.nn.ModuleList([network, loss])
    optimizer = make_optimizer(settings.optimizer, learners, plan[0].rate, settings.weight_decay, momentum=0.9)
    # The loss is not prepared: it sees the gathered rows of all processes, so its gradients agree as they are.
    net, optimizer = accelerator.prepare(network, optimizer)
    average = average_of(network, settings.ema)
    best, snapshots, hardest = Best(keeps_weights=False), Snapshots(), HardestBatch(settings.replay_every, batches)
    state = {"net": network, "loss": loss, "optimizer": optimizer, "average": average, "scaler": accelerator.scaler}
    state |= {"best": best, "snapshots": snapshots, "hardest": hardest}
    checkpoint = Checkpoint(folder, depends, state, settings.keep_checkpoints)
    start = saved = 0 if fresh else checkpoint.load()
    record = Record(folder, start) if accelerator.is_main_process else None
    judge_now = functools.partial(judge, config=config, model=model, crops=validation_crops, folder=folder, best=best)
    losses: list[float] = []

    def move() -> None:
        optimizer.step()
        optimizer.zero_grad()
        if average:
            average.update_parameters(network)

    with progress_bar(total=len(plan), title=model.name, unit="step", done=start) as bar:
        for step, batch in enumerate(batch_loader(batches, start, settings.workers), start):
            now, done = plan[step], step + 1
            if now.begins:
                begin_anew(optimizer, average)
                hardest.forget(step)
                broadcast(loss.state_dict())  # so that rounding never sets the processes apart
                log.info("%s: phase %d of %d", model.name, batches.phase_begins.index(step) + 1, len(settings.phases))
            torch.manual_seed(model.seed + step + 1_000_003 * accelerator.process_index)  # for backbones with dropout
            set_mode(network, now.phase)
            loss.set_margin(step / len(plan))
            for group in optimizer.param_groups:
                group["lr"] = now.rate
            with contextlib.nullcontext() if now.moves else accelerator.no_sync(net):
                value = backward(batch, now.phase, settings, net, loss, accelerator, 1 / settings.accumulate)
            if now.moves:
                move()
            if again := hardest.after(step, value, batch, now.moves):
                backward(again, now.phase, settings, net, loss, accelerator, 1.0)
                move()
            judged = average.module if average else network
            if now.snapshot:
                snapshots.add(judged)
            if not accelerator.is_main_process:
                continue
            losses.append(value)
            bar.update()
            bar.set_postfix(loss=f"{sum(losses[-20:]) / len(losses[-20:]):.3f}", refresh=False)
            record.note(step, loss=value, rate=now.rate)
            if done % per_epoch == 0:
                recall = judge_now([judged], done / per_epoch)
                mean_loss = sum(losses[-per_epoch:]) / len(losses[-per_epoch:])
                log.info("%s epoch %d: loss %.3f, recall@1 %.3f", model.name, done // per_epoch, mean_loss, recall)
                record.note(step, recall_at_1=recall)
            if (
                now.moves
                and done // settings.checkpoint_every > saved // settings.checkpoint_every
                and done < len(plan)
            ):
                record.flush()
                checkpoint.save(done)
                saved = done
    joined = snapshots.networks(network)
    if settings.snapshots == "average":
        last_steps = batch_loader(batches, max(batches.phase_begins[-2], len(plan) - NORM_BATCHES), settings.workers)
        joined = [average_networks(joined, last_steps, accelerator.device)]
    if accelerator.is_main_process:
        if joined:
            recall = judge_now(joined, model.epochs)
            log.info("%s: snapshots, %s: recall@1 %.3f", model.name, settings.snapshots, recall)
            record.note(len(plan), recall_at_1=recall)
        record.draw(batches.phase_begins[1:-1])
        mark_finished(folder, depends)
        checkpoint.drop()


if __name__ == "__main__":
    run_entry(main, lower="embedders.*.batch_size or .input_size, or embed_train.workers")
