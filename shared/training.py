"""What both training loops share: data, schedule, average of weights, checkpoints, and the record that becomes curves."""

import argparse
import contextlib
import csv
import logging
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from shared.config import Config
from shared.dataset import Dataset, read_dataset, split_parts, train_and_validation
from shared.errors import UserError
from shared.files import remove_leftovers, write_json, write_torch, write_whole
from shared.fit import refuse_problems
from shared.lock import held, locked
from shared.runtime import cpu_has_bf16
from shared.weights import is_whole, read_description
from shared.work import fingerprint

log = logging.getLogger("train")

MOST_STEPS = 2**63 - 1  # that TensorBoard can number

RESUME = "resume"  # the folder of a model's checkpoints

# Keys of detector_train and of embed_train: how a run is carried out, not what comes of it.
RUN_KEYS = {"workers", "checkpoint_every", "keep_checkpoints"}
# Keys of data that say what is refused: whatever passes is the same.
LIMITS = {"max_annotation_bytes", "max_coco_bytes", "on_error", "seconds_per_file", "decoder_memory_mb"}


def training_data(options: argparse.Namespace, config: Config, parts: list[str]) -> tuple[Dataset, list[Dataset]]:
    """All that either stage trains or validates on, and of it what `parts` train on and what validates.

    Raises UserError as `read_dataset` and `train_and_validation` do, and where data.on_error is `refuse` and something in the
    folders or annotations does not fit: a model that was trained without it is not reused then.
    """
    dataset = read_dataset(options.data, config.data)
    sides = train_and_validation(dataset, parts, config.data.validation_parts, config.data.holdout)
    used = split_parts(dataset, config.training_parts)
    refuse_problems(used.problems, config.data.on_error)
    return used, list(sides)


def hold_for_training(options: argparse.Namespace, into: contextlib.ExitStack) -> None:
    """Takes the locks of the work folder and of the weights, which a training with another work folder may share.

    Raises UserError where either is in use or cannot be written, and where the two are one folder.
    """
    if options.weights.resolve() == options.work.resolve():
        raise UserError(
            f"--weights {options.weights}: expected a folder for the models alone, found the work folder. Leave --weights out for "
            f"{options.work / 'weights'}, or name another."
        )
    into.enter_context(locked(options.work))
    try:
        options.weights.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{options.weights}: cannot be made ({error.strerror}). Name another with --weights.") from None
    into.enter_context(held(options.weights, what="weights folder", option="--weights"))


def training_precision(wanted: str, key: str) -> str:
    """What a training computes in on this machine: no (float32), bf16 or fp16, as accelerate names them.

    auto is what is fast here: bf16 where the GPU (Ampere or newer) or the CPU (AVX-512 BF16, AMX) multiplies it, fp16 on an older
    GPU, else no. `key` names the setting; UserError for fp16 on a machine without a GPU.
    """
    gpu = torch.cuda.is_available()
    if wanted == "fp16" and not gpu:
        raise UserError(f"{key}: fp16 wants a GPU and there is none here. Set it to auto, bf16 or no.")
    if wanted != "auto":
        return wanted
    if gpu:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if cpu_has_bf16() else "no"


def tell_precision(wanted: str, key: str) -> None:
    """Logs what the training will compute in; raises as `training_precision` does."""
    chosen = training_precision(wanted, key)
    if wanted == "auto":
        log.info("%s: auto is %s on this machine", key, chosen)
    elif wanted == "bf16" and not torch.cuda.is_available() and not cpu_has_bf16():
        log.warning("%s: this CPU only emulates bf16, which can take ten times as long as float32; auto is faster", key)


def accelerator_of(wanted: str, key: str, **options: object) -> Accelerator:
    """An accelerator of the precision that `training_precision` gives, which may be another than that of one made before.

    Raises as `training_precision` does; options: further ones of Accelerator.
    """
    AcceleratorState._reset_state()  # accelerate refuses another precision than a process's first, and has no public way around it
    return Accelerator(mixed_precision=training_precision(wanted, key), **options)


def batch_loader(batches: TorchDataset, start: int, workers: int) -> DataLoader:
    """The batches of steps start, start + 1, ..., each an item of `batches`, read ahead by `workers` processes.

    These are forks: they share what is imported and start at once, and each ends within seconds of a training that was killed.
    (Those of a fork server, Python's default from 3.14 on, live for as long as the server, and the server for as long as they.)
    """
    return DataLoader(  # not accelerate's: that one would leave our sampler, and so the steps done, aside
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=2 if workers else None,
    )


def warmup_cosine(step: int, n_steps: int, n_warmup: int) -> float:
    """The learning rate of step 0..n_steps-1 as a share of its top: a line from 1/n_warmup up to 1, then half a cosine to 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def make_optimizer(
    name: str, model: torch.nn.Module, learning_rate: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """sgd, adam or adamw over the model's trainable weights; vectors (biases, norms, GeM's p) do not decay."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trainable if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in trainable if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=learning_rate)


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of weights and buffers; None for decay 0."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None


def begin_anew(optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> None:
    """Makes optimiser and average forget what they gathered, as if they had just been made."""
    optimizer.state.clear()
    if average:
        average.n_averaged.zero_()  # the next weights are taken as they are


class Best:
    """The best value of a metric so far and, where they are wanted later, the weights that reached it (on the CPU).

    A part of the checkpoint: a model folder may hold what a killed run reached after its last checkpoint.
    """

    def __init__(self, keeps_weights: bool):
        self._keeps_weights = keeps_weights
        self.value = -1.0
        self.weights: dict[str, torch.Tensor] | None = None

    def improved_by(self, value: float, model: torch.nn.Module) -> bool:
        """Whether `value`, reached by `model`, is as good as the best or better; it is the best from now on."""
        if value < self.value:
            return False
        self.value = value
        if self._keeps_weights:
            self.weights = {name: weight.detach().cpu().clone() for name, weight in model.state_dict().items()}
        return True

    def state_dict(self) -> dict:
        return {"value": self.value, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.value, self.weights = state["value"], state["weights"]


class Checkpoint:
    """The state of a training run in <folder>/resume/<step>.pt, kept with the fingerprint of what it depends on.

    A run with another fingerprint starts anew; an interrupted run with the same one goes on where its last whole file
    stands; the newest `keep` files stay. `parts` are objects with state_dict and load_state_dict (model, optimizer, loss,
    average, gradient scaler); those that are None are left out.
    """

    def __init__(self, folder: Path, depends: dict, parts: dict[str, object], keep: int):
        self._folder = folder / RESUME
        self._fingerprint = fingerprint(depends)
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._keep = keep
        self._own: list[Path] = []  # this run's files, oldest first

    def load(self) -> int:
        """Fills the parts from the newest whole file and gives the steps done; 0 where there is nothing to go on from."""
        for folder in (self._folder, self._folder.parent):
            remove_leftovers(folder)
        paths = sorted(self._folder.glob("*.pt"))
        while paths:
            try:
                found, step, parts = read_checkpoint(paths[-1])
            except Exception as error:  # zipfile and torch.load raise many kinds; each means that the file is not whole
                log.warning(
                    "%s: damaged (%s: %s); left out for the one before it", paths.pop(), type(error).__name__, error
                )
                continue
            if found != self._fingerprint:
                log.info("%s: made with another config or data, starts anew", paths[-1])
                return 0
            try:
                for name, part in self._parts.items():
                    part.load_state_dict(parts[name])
            except Exception as error:  # each kind of part raises its own where it is given what is none of its states
                raise UserError(
                    f"{paths[-1]}: not the state of this training ({type(error).__name__}: {error}). Remove {self._folder} to "
                    "train anew."
                ) from None
            self._own = paths
            return step
        return 0

    def save(self, step: int) -> None:
        """Writes the parts as they are after `step` steps."""
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = {"fingerprint": self._fingerprint, "parts": parts, "step": step}
        path = self._folder / f"{step:08d}.pt"
        write_torch(path, state)
        self._own = [*self._own, path][-self._keep :]
        for other in set(self._folder.glob("*.pt")) - set(self._own):
            other.unlink()

    def drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[str, int, dict[str, dict]]:
    """Fingerprint, steps done and the parts' states of a checkpoint. Raises an exception of some kind where it is damaged."""
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")
        if any(member.file_size > member.compress_size for member in archive.infolist()):
            raise ValueError("it is compressed")  # as torch.save's are not: a small file could take all memory
    state = torch.load(path, map_location="cpu", weights_only=True)
    if type(state["step"]) is not int or not 0 <= state["step"] <= MOST_STEPS or not isinstance(state["parts"], dict):
        raise ValueError("expected the number of steps, and the states of the parts")
    return state["fingerprint"], state["step"], state["parts"]


class Record:
    """The numbers of a training run: log.csv (one row per noted step), curves.png, and TensorBoard events, in `folder`."""

    def __init__(self, folder: Path, from_step: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.csv"
        self._rows = [row for row in self._read() if int(row["step"]) < from_step]
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=from_step)

    def _read(self) -> list[dict]:
        if not self._path.is_file():
            return []
        try:
            with open(self._path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError):
            rows = [{}]
        kept = [row for row in rows if _is_record(row)]
        if len(kept) < len(rows):
            log.warning("%s: %d rows are damaged and left out", self._path, len(rows) - len(kept))
        return kept

    def note(self, step: int, **values: float) -> None:
        self._rows.append({"step": step, **values})
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes log.csv whole."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))

        def write(path: Path) -> None:
            with open(path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(self._rows)

        write_whole(self._path, write)
        self._writer.flush()

    def draw(self, phases: list[int] = ()) -> None:
        """Writes curves.png: one panel per number, a loss with its running mean; lines at the steps in `phases`, where the
        second phase and those after it begin."""
        from matplotlib.figure import Figure

        self.flush()
        self._writer.close()
        names = list(dict.fromkeys(name for row in self._rows for name in row if name != "step"))
        if not names:
            return
        n_columns = min(3, len(names))
        n_rows = math.ceil(len(names) / n_columns)
        last_step = int(self._rows[-1]["step"])
        figure = Figure(figsize=(4.5 * n_columns, 3 * n_rows), layout="constrained")
        for place, name in enumerate(names, 1):
            points = [(int(row["step"]), float(row[name])) for row in self._rows if row.get(name) not in (None, "")]
            axes = figure.add_subplot(n_rows, n_columns, place, xlabel="step")
            axes.set_title(name, parse_math=False)  # it comes from a file
            _draw_curve(axes, *np.array(points).T, jumps="loss" in name)
            for number, step in enumerate(phases, 2):
                axes.axvline(step, color="grey", linestyle="--", linewidth=0.8)
                axes.annotate(f" phase {number}", (step, 1), xycoords=("data", "axes fraction"), va="top", fontsize=7)
            axes.set_xlim(0, max(1, last_step))
            axes.grid(alpha=0.3)
        write_whole(self._path.with_name("curves.png"), lambda beside: figure.savefig(beside, dpi=110, format="png"))


def _is_record(row: dict) -> bool:
    """Whether a row of log.csv has a step and numbers alone."""
    try:
        for value in row.values():
            float(value or 0)
        return 0 <= int(row["step"]) <= MOST_STEPS
    except (KeyError, TypeError, ValueError):
        return False


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and up to `width` before and after it, fewer at the ends: (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - width, 0)
    last = np.minimum(np.arange(len(values)) + width + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _draw_curve(axes, steps: np.ndarray, values: np.ndarray, jumps: bool) -> None:
    """A number's curve; where it jumps from step to step, pale and with its running mean over it."""
    if not jumps or len(values) < 30:
        axes.plot(steps, values, marker="o" if len(values) < 30 else None, markersize=3)
        return
    smooth = running_mean(values, len(values) // 50 + 2)
    axes.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.6)
    axes.plot(steps, smooth, color="tab:blue", linewidth=1.6)
    low, high = np.quantile(values, [0, 0.995])  # a few first steps or outliers would flatten all that follows
    axes.set_ylim(min(0.0, low), 1.05 * max(high, smooth.max()) or 1.0)


def mark_finished(folder: Path, depends: dict) -> None:
    """Writes into model.json what the run depended on: with it the model counts as finished."""
    write_json(folder / "model.json", {**read_description(folder), "fingerprint": fingerprint(depends)})


def forget_finished(folder: Path) -> None:
    """Takes from a model folder what counts as finished, imported or to be gone on from, before --fresh trains it: so that the same
    command without --fresh goes on from what that training did. The weights stay until it writes its first ones."""
    shutil.rmtree(folder / RESUME, ignore_errors=True)
    path = folder / "model.json"
    try:
        description = read_description(folder)
    except UserError:  # none, or a damaged one
        path.unlink(missing_ok=True)
        return
    write_json(path, {key: value for key, value in description.items() if key not in ("fingerprint", "imported")})


def is_trained(folder: Path) -> bool:
    """Whether a model folder holds what a training, of whatever config and data, has finished."""
    try:
        return "fingerprint" in read_description(folder)
    except UserError:  # none, or a damaged one
        return False


def finished(folder: Path, depends: dict) -> bool:
    """Whether a model folder was finished by a run with these dependencies; then it needs no checkpoints any more."""
    try:
        description = read_description(folder)
        whole = description.get("fingerprint") == fingerprint(depends) and is_whole(folder)
    except UserError:
        return False
    if whole:
        shutil.rmtree(folder / RESUME, ignore_errors=True)  # of a run that was killed after it had finished
    return whole
