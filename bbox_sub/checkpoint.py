"""Checkpoints of detectors that others trained, read without running what a pickle could carry."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared.errors import UserError
from shared.weights import read_state

ALLOWED = {  # what a pickle of numpy arrays is made of; nothing here runs code of the file's choosing
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", name): getattr(np._core.multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of a .pth, .pt, .safetensors, or .pkl (detectron2's model zoo: a mapping of names to arrays under `model`).

    Raises UserError for a file that is missing, holds no weights, or holds what only a run of its code could rebuild.
    """
    if path.suffix != ".pkl":
        return read_state(path)
    try:
        tree = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Name a detectron2 checkpoint.") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise UserError(f"{path}: not a plain pickle of arrays ({type(error).__name__}: {error}).") from None
    arrays = tree.get("model", tree) if isinstance(tree, dict) else tree
    if not isinstance(arrays, dict) or not arrays:
        raise UserError(f"{path}: expected a mapping of names to arrays, found {type(arrays).__name__}.")
    state = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name!r:.80}: expected an array of numbers, found {type(array).__name__}.")
        state[name] = torch.from_numpy(np.array(array))
    return state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need") from None
