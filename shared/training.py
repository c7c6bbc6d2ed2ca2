"""What both training loops share: schedule, average of weights, checkpoints, and the record that becomes curves."""

import csv
import logging
import math
import shutil
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shared.errors import UserError
from shared.weights import is_whole, read_description
from shared.work import fingerprint, write_json, write_whole

log = logging.getLogger("train")


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


class Checkpoint:
    """The state of a training run in <folder>/resume/state.pt, kept with the fingerprint of what it depends on.

    A run with another fingerprint starts anew; an interrupted run with the same one goes on where its last file stands.
    `parts` are objects with state_dict and load_state_dict (model, optimizer, loss, average).
    """

    def __init__(self, folder: Path, depends: dict, parts: dict[str, object]):
        self._folder = folder / "resume"
        self._path = self._folder / "state.pt"
        self._fingerprint = fingerprint(depends)
        self._parts = {name: part for name, part in parts.items() if part is not None}

    def load(self) -> dict:
        """Fills the parts from the file and gives what was saved as `progress`; {} where there is nothing to go on from."""
        if not self._path.is_file():
            return {}
        state = torch.load(self._path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self._fingerprint:
            log.info("%s: made with another config or data, starts anew", self._path)
            return {}
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        return state["progress"]

    def save(self, **progress: object) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        state = {"fingerprint": self._fingerprint, "parts": parts, "progress": progress}
        write_whole(self._path, lambda beside: torch.save(state, beside))

    def drop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


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
        with open(self._path, newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if row.get("step")]

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

    def draw(self) -> None:
        """Writes curves.png: one panel per number."""
        from matplotlib.figure import Figure

        self.flush()
        names = list(dict.fromkeys(name for row in self._rows for name in row if name != "step"))
        if not names:
            return
        figure = Figure(figsize=(4 * min(3, len(names)), 3 * math.ceil(len(names) / 3)), layout="constrained")
        for place, name in enumerate(names, 1):
            points = [(int(row["step"]), float(row[name])) for row in self._rows if row.get(name) not in (None, "")]
            axes = figure.add_subplot(math.ceil(len(names) / 3), min(3, len(names)), place, title=name, xlabel="step")
            axes.plot(*zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3)
            axes.grid(alpha=0.3)
        write_whole(self._path.with_name("curves.png"), lambda beside: figure.savefig(beside, dpi=110, format="png"))
        self._writer.close()


def mark_finished(folder: Path, depends: dict) -> None:
    """Writes into model.json what the run depended on: with it the model counts as finished."""
    write_json(folder / "model.json", {**read_description(folder), "fingerprint": fingerprint(depends)})


def finished(folder: Path, depends: dict) -> bool:
    """Whether a model folder was finished by a run with these dependencies."""
    try:
        description = read_description(folder)
        return description.get("fingerprint") == fingerprint(depends) and is_whole(folder)
    except UserError:
        return False
