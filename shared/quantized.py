"""INT8 weights beside a model's float weights, in <model>/int8: written by `quantize`, read where `runtime.precision` is int8.

The folder is a step (see shared/work.py): its manifest, written last, names the float weights that it was made of, the
calibration pictures, the versions of NNCF and OpenVINO, what it costs, and the SHA-256 of every file. This module needs no NNCF.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import openvino as ov

from shared.errors import UserError
from shared.runtime import INT8_STREAMS, Cache, Runtime, openvino_core
from shared.weights import file_sha256, read_description
from shared.work import Step

FOLDER = "int8"
HOW = "Run `bash run.sh quantize`, with the --config, --data and --weights of the training, or choose another runtime.precision."


def save_quantized(step: Step, models: dict[str, ov.Model]) -> dict[str, str]:
    """Writes each model as <name>.xml and <name>.bin into the step's folder; gives the files' SHA-256 by name.

    The step is not finished by this: until its manifest is there, the files count as nothing.
    """
    sums = {}
    for name, model in models.items():
        path = step.folder / f"{name}.xml"
        try:
            ov.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # OpenVINO's word for a full disk too
            raise OSError(f"{path} cannot be written ({str(error).splitlines()[-1]})") from None
        for file in (path, path.with_suffix(".bin")):
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
            sums[file.name] = file_sha256(file)
    return sums


def read_quantized(folder: Path, name: str) -> ov.Model:
    """One of the INT8 models of a model's folder.

    Raises UserError where there are none, where they were made of other float weights, and where a file is damaged.
    """
    sums, files = quantized_files(folder), [f"{name}.xml", f"{name}.bin"]
    for file in files:
        path = folder / FOLDER / file
        if file not in sums:
            raise UserError(f"{path}: expected among the INT8 weights, found {', '.join(sorted(sums))}: of another version. {HOW}")
        if not _is_whole(path, sums[file]):
            raise UserError(f"{path}: expected the file with sha256 {sums[file]}, found another or none. {HOW}")
    return openvino_core().read_model(*(folder / FOLDER / file for file in files))


def quantized_files(folder: Path) -> dict[str, str]:
    """The files of a model's INT8 weights and their SHA-256, as the manifest tells them; the files are not looked at.

    Raises UserError where there are none or they were made of other float weights.
    """
    path = folder / FOLDER / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        made_of, files = manifest["depends"]["weights"], manifest["files"]
    except FileNotFoundError:
        raise UserError(
            f"{folder}: runtime.precision int8 wants INT8 weights, and there are none (no {path.name} in {path.parent}). {HOW}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the manifest of INT8 weights. {HOW}") from None
    weights = read_description(folder)["sha256"]
    if made_of != weights:
        raise UserError(
            f"{path.parent}: made of other float weights: expected sha256 {weights}, found {made_of}. The model was trained again "
            f"since. {HOW}"
        )
    return files


def are_damaged(folder: Path) -> bool:
    """Whether a model's folder has INT8 weights of which a file is missing or is not the one that the manifest tells."""
    try:
        return not all(_is_whole(folder / FOLDER / file, sha256) for file, sha256 in quantized_files(folder).items())
    except UserError:
        return False


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def made_or_quantized(
    make: Callable[[], ov.Model], runtime: Runtime, cache: Cache, folder: Path
) -> tuple[Callable[[], ov.Model], Cache]:
    """What makes one of a folder's models, and where it is kept compiled: `make` and `cache`, or in INT8 those of the INT8 weights.

    Raises UserError as `quantized_files` does.
    """
    if runtime.precision != "int8":
        return make, cache
    depends = {**cache.depends, "int8": quantized_files(folder)}
    return partial(read_quantized, folder, cache.name), replace(cache, depends=depends)


def runtime_settings(runtime: Runtime, *folders: Path) -> dict:
    """What results of some models depend on beside their float weights, for a step's fingerprint: the runtime and INT8 weights.

    Raises UserError as `quantized_files` does.
    """
    if runtime.precision != "int8":
        return runtime.settings
    return {**runtime.settings, "int8": [quantized_files(folder) for folder in folders], "streams": INT8_STREAMS}


def discard(step: Step) -> None:
    """Removes what was built, so that inference finds no INT8 weights."""
    shutil.rmtree(step.folder)
