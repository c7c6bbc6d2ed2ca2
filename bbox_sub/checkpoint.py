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

KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}  # of numbers, as numpy writes them into a pickle


class _Kind:
    """Stands for a numpy.dtype: what kind of numbers, and in which order their bytes are."""

    def __init__(self, name: object, *_: object):
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def of_numpy(self) -> np.dtype:
        if self.name not in KINDS or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array of {self.name!r:.80}, expected one of {', '.join(sorted(KINDS))}")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """Stands for a numpy.ndarray: numpy would take the shape, the kind and the address of a hostile file at its word."""

    def __init__(self, *_: object):
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's
        flat = np.frombuffer(data, kind.of_numpy())
        self.array = flat.reshape(shape, order="F" if by_column else "C")


def _scalar(*_: object) -> None:
    """Stands for a number of numpy's, such as a count of iterations, which no weight is."""


ALLOWED = {  # what a pickle of numpy arrays asks for -> what it gets; nothing here runs code of the file's choosing
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, *_: text,  # of bytes, as protocols before 3 write them
    ("__builtin__", "bytes"): lambda *_: b"",  # of none
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
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
    for name, value in arrays.items():
        array = value.array if isinstance(value, _Array) else None
        if not isinstance(name, str) or array is None:
            raise UserError(f"{path}: {name!r:.80}: expected an array of numbers, found {type(value).__name__.strip('_')}.")
        native = array.astype(array.dtype.newbyteorder("="))
        state[name] = torch.from_numpy(np.array(native))
    return state


def _refuse_bytes(_: pickle._Unpickler) -> None:
    raise pickle.UnpicklingError("it has a bytearray, as protocol 5 writes them; expected protocol 4 or less")


class _Unpickler(pickle._Unpickler):  # Python's own: the one in C takes memory for as many memos as a file claims to have
    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _refuse_bytes}  # which takes memory for as long a one as is claimed

    def find_class(self, module: str, name: str) -> object:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which arrays do not need") from None
