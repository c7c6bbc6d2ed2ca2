"""What a table between the steps holds, checked when it is read: a work folder may come from someone else, or be damaged."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_integer_dtype, is_string_dtype

from shared.errors import UserError

NUMBER_OR_NONE = "number or none"  # the kind of a column whose numbers may be missing (NaN)


def check_columns(table: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    """The table with a fresh index and these columns (name -> dtype) of just that kind; others stay as they are.

    Text has no missing values, whole numbers are 0 or more, numbers are finite. Raises UserError, which names the file and the
    column, where one is not there or is of another kind.
    """
    table = table.reset_index(drop=True)
    for name, kind in columns.items():
        if list(table.columns).count(name) != 1:
            raise UserError(
                f"{path}: expected a column {name!r}, found {', '.join(map(repr, table.columns))[:200]}. {_mend(path)}"
            )
        values = table[name]
        if len(values) and not _is_of(values, kind):
            raise UserError(
                f"{path}: column {name!r}: expected {_in_words(kind)}, found {values.dtype} with {values.tolist()[:3]!r:.80}. {_mend(path)}"
            )
        table[name] = values.astype("float64" if kind == NUMBER_OR_NONE else kind)
    return table


def check_places(names: pd.Series, folder: Path) -> pd.Series:
    """Paths within `folder`, as a table of it tells them. Raises UserError for one that leaves it."""
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{folder}: its table tells of {name!r:.200}, which is not in it. Remove {folder} and run again."
            )
    return names


def _is_of(values: pd.Series, kind: str) -> bool:
    if kind == NUMBER_OR_NONE:
        return is_float_dtype(values) or values.isna().all()
    if values.isna().any():
        return False
    if kind == "str":
        return is_string_dtype(values) and all(isinstance(value, str) for value in values)
    if kind == "bool":
        return is_bool_dtype(values)
    if kind == "int64":
        return is_integer_dtype(values) and bool(values.between(0, 2**63 - 1).all())
    return is_float_dtype(values) and bool((values.abs() <= np.finfo(kind).max).all())


def _in_words(kind: str) -> str:
    words = {"str": "text", "bool": "true or false", "int64": "whole numbers from 0", NUMBER_OR_NONE: "numbers"}
    return words.get(kind, "finite numbers")


def _mend(path: Path) -> str:
    return f"Remove {path.parent} and run again."
