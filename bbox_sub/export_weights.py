"""Writes a detector as a detectron2 checkpoint: `python -m bbox_sub.export_weights --weights work/weights --out FILE.pth`."""

import argparse
import logging
from pathlib import Path

from bbox_sub.detector import load_detector
from bbox_sub.detectron2_names import VOVNETS, to_detectron2
from shared.cli import run_entry
from shared.errors import UserError
from shared.files import write_torch
from shared.runtime import PLAIN

log = logging.getLogger("export")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--weights", type=Path, default=Path("work/weights"), help="the models' folder (default: work/weights)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint to write, *.pth")
    options = parser.parse_args(argv)
    if options.out.exists():
        raise UserError(f"{options.out}: is there already. Move it away, or name another file with --out.")
    export_weights(options.weights / "detector", options.out)
    log.info("%s: for MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], PIXEL_STD [1, 1, 1], INPUT.FORMAT BGR", options.out)


def export_weights(folder: Path, file: Path) -> None:
    """Writes {"model": weights under detectron2's names} with torch.save.

    Raises UserError for a network that detectron2's VoVNets cannot be: of another form, without eSE in every block, or
    normalised by groups.
    """
    model, config = load_detector(folder, runtime=PLAIN, least_score=0.0, engine="torchvision")
    for key, wanted in (("backbone", VOVNETS), ("ese_in_every_block", [True]), ("norm", ["batch", "frozen"])):
        if getattr(config, key) not in wanted:
            raise UserError(
                f"{folder}: detectron2's VoVNets have {key} {' or '.join(map(str, wanted))}, this one {getattr(config, key)}."
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    state = to_detectron2(model.state_dict())
    write_torch(file, {"model": state})


if __name__ == "__main__":
    run_entry(main)
