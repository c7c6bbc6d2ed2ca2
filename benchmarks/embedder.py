"""An embedder per crop: timm in torch eager, under torch.compile, and ours in each precision; and how near the vectors are.

    bash run.sh bench embedder [--weights DIR] [--side NAME ...] [--crops 4] [--rounds 5] [--size 456 456] [--threads 0] [--json FILE]

Without --weights it is the full recipe's first embedder (configs/wab.yaml, an EfficientNet-B5) with random weights whose batch norms
fit the crops, which are drawn; where NNCF is installed they calibrate INT8 weights too.
Every side has the same weights and crops and a process of its own; torch takes all crops of a call as one batch, ours each by itself.
torch has memory and threads as they come, but for the side that has those that run.sh asks for: what part of a ratio is theirs.
`cosine`: the least of a side's vectors with the base's. A network of random weights exaggerates small differences; --weights names a
trained one.
"""

import argparse
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.detector import FULL_RECIPE, drawn_pictures
from benchmarks.side_by_side import add_sides, flop_of, matrix_limits, measure, publish, report_of
from metric_sub.crops import to_input
from metric_sub.embedder import build_embedder, load_embedders, save_embedder
from metric_sub.openvino_engine import front_model
from shared.cli import use_threads
from shared.config import load_config
from shared.quantized import FOLDER, save_quantized
from shared.runtime import PLAIN, Runtime, cpu_has_bf16
from shared.weights import read_description
from shared.work import Step

BASE = "timm eager"
COMPILED, OUR_SETTINGS = "torch.compile", f"{BASE}, run.sh's settings"
IN_TORCH = (BASE, OUR_SETTINGS, COMPILED)
LIMITS = dict.fromkeys(IN_TORCH, "torch f32") | {"f32": "openvino f32", "bf16": "openvino bf16", "int8": "openvino int8"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench embedder", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a trained embedder's folder (default: drawn weights of the full recipe's first)")
    add_sides(parser, BASE, LIMITS)
    parser.add_argument("--crops", type=int, default=4, help="of one call (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--size", type=int, nargs=2, default=(456, 456), help="height and width (default: 456 456)")
    parser.add_argument("--threads", type=int, default=0, help="(default: every core)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = drawn_pictures(options.crops, *options.size)
        crops = np.ascontiguousarray(torch.stack(pictures).permute(0, 2, 3, 1).numpy())  # (B, H, W, 3)
        weights = options.weights or draw_weights(Path(scratch), crops)
        names = [BASE, *(options.side or sides_here(weights, options.weights is None))]
        if "int8" in names and not options.weights:
            use_threads(options.threads)
            quantize_drawn(weights, crops)
        sides = {name: partial(prepare, name, weights, crops) for name in names}
        measured = measure(sides, rounds=options.rounds, in_children=True, threads=options.threads, as_they_come=(BASE, COMPILED))
        [plain] = load_embedders(weights, runtime=PLAIN, flip=False)
        flop = flop_of(lambda: run_torch(plain.net, crops[:1]))
    base = measured[BASE].gave
    report = report_of(
        "embedder",
        measured,
        base=BASE,
        unit="crop",
        per_call=len(crops),
        flop=flop,
        limits=matrix_limits(options.threads),
        limit_of=LIMITS,
        beside={name: {"cosine": float((base * side.gave).sum(axis=1).min())} for name, side in measured.items()},
    )
    publish([report], options.json)


def sides_here(weights: Path, drawn: bool) -> list[str]:
    compiled = [COMPILED] if shutil.which("c++") or shutil.which("g++") else []  # it writes C++
    int8 = importlib.util.find_spec("nncf") if drawn else (weights / FOLDER).is_dir()
    return [OUR_SETTINGS, *compiled, "f32", *(["bf16"] if cpu_has_bf16() else []), *(["int8"] if int8 else [])]


def prepare(name: str, weights: Path, crops: np.ndarray) -> Callable[[], np.ndarray]:
    """A side's function, which gives the crops' vectors (B, D)."""
    if name in IN_TORCH:
        [plain] = load_embedders(weights, runtime=PLAIN, flip=False)
        return partial(run_torch, torch.compile(plain.net) if name == COMPILED else plain.net, crops)
    [ours] = load_embedders(weights, runtime=Runtime("openvino", name, "cpu", ""), flip=False)
    return partial(ours.net, crops)


@torch.inference_mode()
def run_torch(net: nn.Module, crops: np.ndarray) -> np.ndarray:
    return net(to_input(list(crops))).numpy()


def draw_weights(scratch: Path, crops: np.ndarray) -> Path:
    """An embedder's folder: the full recipe's first with random weights; its batch norms see the crops and their mirror images."""
    config = load_config(FULL_RECIPE, ["embedders.0.pretrained=false"])
    torch.manual_seed(0)
    net = build_embedder(config.embedders[0], config.embed, load_pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = 1.0  # the statistics are the last batch's
    small = nn.functional.interpolate(to_input(list(crops)), (224, 224), mode="bilinear")
    with torch.inference_mode():
        net.train()(torch.cat([small, small.flip(-1), small.flip(-2), 1 - small]))
    save_embedder(scratch / "embedder", [net.eval()], config.embedders[0], config.embed, {}, 0)
    return scratch / "embedder"


def quantize_drawn(weights: Path, crops: np.ndarray) -> None:
    """Writes INT8 weights beside those drawn, calibrated by the very crops."""
    from shared.int8 import Source, quantize_within  # here: NNCF is an extra

    [plain] = load_embedders(weights, runtime=PLAIN, flip=False)
    sources = {"network0": Source(front_model(plain.net), list(crops), lambda crop: crop[None])}
    made = quantize_within(sources, load_config(FULL_RECIPE).quantize, None, None, "embedder")
    step = Step(weights / FOLDER, {"weights": read_description(weights)["sha256"]})
    step.write(
        {"calibration": pd.DataFrame({"crop": range(len(crops))})}, facts={"files": save_quantized(step, made.models)}
    )


if __name__ == "__main__":
    main()
