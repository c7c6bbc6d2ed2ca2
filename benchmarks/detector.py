"""The whole detector per picture: torch eager, detectron2 where it is installed, and ours in each precision; and whether boxes agree.

    bash run.sh bench detector [--weights DIR] [--side NAME ...] [--pictures 2] [--rounds 5] [--size 608 1080] [--threads 0] [--json FILE]

Without --weights it is the full recipe's network (configs/wab.yaml, a VoVNet-99) with random weights whose batch norms fit the
pictures, which are drawn; where NNCF is installed they calibrate INT8 weights too.
Every side has the same weights and pictures and a process of its own. The first two are as they come, without what run.sh sets (huge
pages, threads that sleep while they wait), each picture by itself; ours has as many at work as it has streams.
`found`: the share of the base's boxes that a side has with an IoU of 0.9 or more and the same label. Random weights have many boxes of
nearly equal score, of which the last bits choose: `evaluate` with a trained detector, once per runtime.precision, tells what a
precision costs in mAP.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from bbox_sub.detector import build_detector, load_detector
from bbox_sub.openvino_engine import MODELS, CompiledDetector, detector_models
from benchmarks._plain_pooling import pooling_plainly
from benchmarks.side_by_side import add_sides, flop_of, matrix_limits, measure, publish, report_of
from shared.boxes import pairwise_iou
from shared.cli import use_threads
from shared.config import load_config
from shared.quantized import FOLDER, save_quantized
from shared.runtime import PLAIN, Runtime, cpu_has_bf16
from shared.weights import read_description, save_weights
from shared.work import Step

FULL_RECIPE = Path(__file__).resolve().parents[1] / "configs" / "wab.yaml"
LEAST_SCORE = 0.05
SAME_IOU = 0.9
BASE = "torch eager"
AS_IT_COMES = (BASE, "detectron2")
LIMITS = {BASE: "torch f32", "detectron2": "torch f32", "f32": "openvino f32", "bf16": "openvino bf16", "int8": "openvino int8"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bash run.sh bench detector", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a trained detector's folder (default: drawn weights of the full recipe)")
    add_sides(parser, BASE, LIMITS)
    parser.add_argument("--pictures", type=int, default=2, help="of one call (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--size", type=int, nargs=2, default=(608, 1080), help="height and width (default: 608 1080)")
    parser.add_argument("--threads", type=int, default=0, help="(default: every core)")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = drawn_pictures(options.pictures, *options.size)
        weights = options.weights or draw_weights(Path(scratch), pictures)
        names = [BASE, *(options.side or sides_here(weights, options.weights is None))]
        if "int8" in names and not options.weights:
            use_threads(options.threads)
            quantize_drawn(weights, pictures)
        sides = {name: partial(prepare, name, weights, pictures) for name in names}
        measured = measure(sides, rounds=options.rounds, in_children=True, threads=options.threads, as_they_come=AS_IT_COMES)
        model, _ = load_detector(weights, runtime=PLAIN, least_score=LEAST_SCORE, engine="torchvision")
        flop = flop_of(lambda: run_plain(model, pictures[:1]))
    base = measured[BASE].gave
    report = report_of(
        "detector",
        measured,
        base=BASE,
        unit="picture",
        per_call=len(pictures),
        flop=flop,
        limits=matrix_limits(options.threads),
        limit_of=LIMITS,
        beside={name: {"found": share_found(base, side.gave)} for name, side in measured.items()},
    )
    publish([report], options.json)


def sides_here(weights: Path, drawn: bool) -> list[str]:
    names = ["detectron2"] if importlib.util.find_spec("detectron2") else []
    int8 = importlib.util.find_spec("nncf") if drawn else (weights / FOLDER).is_dir()
    return [*names, "f32", *(["bf16"] if cpu_has_bf16() else []), *(["int8"] if int8 else [])]


def prepare(name: str, weights: Path, pictures: list[torch.Tensor]) -> Callable[[], list[dict]]:
    """A side's function, which gives each picture's boxes, scores and labels as arrays."""
    if name in AS_IT_COMES:
        engine = "torchvision" if name == BASE else name
        model, _ = load_detector(weights, runtime=PLAIN, least_score=LEAST_SCORE, engine=engine)
        model, run = pooling_plainly(model), run_plain
    else:
        model, _ = load_detector(weights, runtime=Runtime("openvino", name, "cpu", ""), least_score=LEAST_SCORE)
        run = run_ours
    return lambda: [{key: value.numpy() for key, value in found.items()} for found in run(model, pictures)]


@torch.inference_mode()
def run_plain(model: nn.Module, pictures: list[torch.Tensor]) -> list[dict]:
    return [model([picture.float() / 255])[0] for picture in pictures]


def run_ours(model: Callable, pictures: list[torch.Tensor]) -> list[dict]:
    return model(pictures)


def drawn_pictures(n: int, height: int, width: int) -> list[torch.Tensor]:
    """n pictures uint8 (3, height, width) with structure of every size: noise on grids from coarse to fine."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(n, 3, height, width)
    for side in (4, 16, 64, 256):
        noise = torch.randn(n, 3, side, side, generator=generator)
        pictures += nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return list((128 + 40 * pictures).clamp(0, 255).to(torch.uint8))


def draw_weights(scratch: Path, pictures: list[torch.Tensor]) -> Path:
    """A detector's folder: the full recipe's network with random weights; its batch norms see the pictures at a third of their size."""
    section = load_config(FULL_RECIPE, ["detector.pretrained=false", "detector.norm=batch"]).detector
    torch.manual_seed(0)
    model = build_detector(section, load_pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics are the last batch's
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            # OpenVINO drops a bias of zeros, and runs some INT8 convolutions without one wrongly; trained networks have them
            nn.init.normal_(module.bias, std=0.02)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.transform.image_mean, model.transform.image_std))
    small = nn.functional.interpolate(torch.stack(pictures).float() / 255, (192, 320), mode="bilinear")
    with torch.inference_mode():
        model.train().backbone((small - mean) / std)
    description = {"kind": "detector", "architecture": section.model_dump(), "fingerprint": "drawn"}
    save_weights(scratch / "detector", model, description)
    return scratch / "detector"


def quantize_drawn(weights: Path, pictures: list[torch.Tensor]) -> None:
    """Writes INT8 weights beside those drawn, calibrated by the very pictures."""
    from bbox_sub.quantize import FLOAT, sources_of  # here: NNCF is an extra
    from shared.int8 import quantize_within

    network, _ = load_detector(weights, runtime=PLAIN, least_score=LEAST_SCORE)
    in_float = CompiledDetector(network, detector_models(network, FLOAT.precision), FLOAT, dict.fromkeys(MODELS))
    settings = load_config(FULL_RECIPE).quantize
    made = quantize_within(sources_of(network, in_float, pictures), settings, None, None, "detector")
    step = Step(weights / FOLDER, {"weights": read_description(weights)["sha256"]})
    step.write(
        {"calibration": pd.DataFrame({"picture": range(len(pictures))})},
        facts={"files": save_quantized(step, made.models)},
    )


def share_found(base: list[dict], given: list[dict]) -> float:
    """The share of the base's boxes that the other has with an IoU of SAME_IOU or more and the same label; 1 where it has none."""
    hits = []
    for expected, found in zip(base, given, strict=True):
        same = expected["labels"][:, None] == found["labels"][None]
        near = pairwise_iou(expected["boxes"], found["boxes"]) >= SAME_IOU
        hits.append((same & near).any(axis=1))
    hits = np.concatenate(hits)
    return float(hits.mean()) if len(hits) else 1.0


if __name__ == "__main__":
    main()
