"""Makes a detector's folder of a detectron2 checkpoint: `python -m bbox_sub.import_weights FILE --config C --out weights/detector`.

The checkpoint is a VoVNet alone (then the rest is drawn, and training starts from it) or a whole detector of the config's
architecture. detectron2 is not needed and no code of the file runs.
"""

import argparse
import logging
from pathlib import Path

import torch

from bbox_sub.body import preprocessing
from bbox_sub.checkpoint import read_checkpoint
from bbox_sub.detector import build_detector
from bbox_sub.detectron2_names import BODY, CLASSES, from_detectron2, is_detectron2
from shared.cli import DEFAULT_CONFIG, run_entry
from shared.config import Config, load_config, save_config
from shared.errors import UserError
from shared.lock import held
from shared.weights import file_sha256, save_weights

log = logging.getLogger("import")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("file", type=Path, help="a .pth, .pkl or .safetensors")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the detector's folder: work/weights/detector to infer with, another to train from",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(argv)
    config = load_config(options.config, options.overrides)
    if (options.out / "model.json").exists():
        raise UserError(f"{options.out}: a model is there already. Move it away, or name another folder with --out.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with held(options.out.parent, what="weights folder", option="--out"):  # as a training holds it
        filled, drawn, left = import_weights(options.file, config, options.out)
        write_config_beside(options.out.parent, config)
    for title, names in (("filled", filled), ("drawn anew", drawn), ("left over", left)):
        log.info("%s: %s", title, ", ".join(f"{part} ({count})" for part, count in _counts(names).items()) or "nothing")
    if drawn:
        log.info(
            "%s: train before you infer, into another folder, with detector_train.phases.0.start=%s",
            options.out,
            options.out,
        )


def write_config_beside(folder: Path, config: Config) -> None:
    """The config beside the models, which infer takes by default; one that is there already stays."""
    if (folder / "config.yaml").exists():
        log.info(
            "%s: left as it is; give infer the --config that these weights were imported with", folder / "config.yaml"
        )
    else:
        save_config(folder, config)


def import_weights(file: Path, config: Config, folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Writes the folder. Gives the names (ours) of the weights that the file filled, of those drawn anew, and of those left over.

    Raises UserError where the file lacks a weight of the body, or some but not all of the rest, or where anything but a
    class head of another number of classes is left over.
    """
    if config.detector.norm == "group":
        raise UserError(
            "detector.norm: expected batch or frozen to import weights, found group: detectron2 groups channels otherwise."
        )
    state = read_checkpoint(file)
    if not is_detectron2(state):
        raise UserError(
            f"{file}: expected the names of a detectron2 VoVNet (stem.stem_1/conv.weight ...), found {sorted(state)[:2]}. "
            "A file of timm's is named in detector.pretrained."
        )
    try:
        found = from_detectron2(state)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    torch.manual_seed(config.seed)
    model = build_detector(
        config.detector.model_copy(update={"engine": "torchvision"}), load_pretrained=False, least_score=0.0
    )
    own = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    other_size = {name for name in own.keys() & found.keys() if own[name].shape != found[name].shape}
    classifier = {name for name in found if name.startswith(f"{BODY}classifier.")}  # of the ImageNet training
    left = {*(found.keys() - own.keys() - classifier), *other_size}
    heads = {name for name in own if name.startswith(CLASSES)}
    if left & heads:
        left |= heads & found.keys()  # of a class head of another size neither layer serves
    drawn = own.keys() - found.keys() | left & own.keys()
    alone = all(name.startswith(BODY) for name in found)
    missing = [name for name in drawn - left if name.startswith(BODY) or not alone]
    if missing or left - heads:
        raise UserError(
            f"{file}: not the weights of {config.detector.backbone} as configured: {len(missing)} missing {sorted(missing)[:3]}, "
            f"{len(left - heads)} left over {_shapes(left - heads, own, found)}. Compare detector.backbone, pyramid_channels, "
            "box_head_features, anchor_ratios and ese_in_every_block with what it was trained with."
        )
    filled = {name: found[name].to(own[name].dtype) for name in own.keys() - drawn}
    model.load_state_dict(filled, strict=False)
    whole = {} if drawn else {"fingerprint": "imported"}
    description = {
        "kind": "detector",
        "architecture": config.detector.model_dump(),
        **preprocessing(config.detector),
        "imported": {
            "file": file.name,
            "sha256": file_sha256(file),
            "drawn": sorted(drawn),
        },
        **whole,
    }
    save_weights(folder, model, description)
    return sorted(filled), sorted(drawn), sorted(left | classifier)


def _counts(names: list[str]) -> dict[str, int]:
    """How many weights of each part: backbone.body, backbone.pyramid, rpn, roi_heads.box_head, roi_heads.box_predictor."""
    counts: dict[str, int] = {}
    for name in names:
        part = "rpn" if name.startswith("rpn.") else ".".join(name.split(".")[:2])
        counts[part] = counts.get(part, 0) + 1
    return counts


def _shapes(names: set[str], own: dict, found: dict) -> list[str]:
    return [
        f"{name} {tuple(found[name].shape)}" + (f" (config: {tuple(own[name].shape)})" if name in own else "")
        for name in sorted(names)[:3]
    ]


if __name__ == "__main__":
    run_entry(main)
