"""What is wrong with a config, in words that name the key and what to do."""

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def in_words(problem: dict, root: type[BaseModel]) -> str:
    """One of the problems that a ValidationError of `root` lists (its `errors()`)."""
    place, kind = problem["loc"], problem["type"]
    dotted = ".".join(map(str, place))
    if kind == "extra_forbidden":
        return f"unknown key {dotted!r}{nearest_key(str(place[-1]), _keys_beside(place, root))}"
    if kind == "missing":
        return f"missing key {dotted!r}. Every key is required; copy it from configs/cpu.yaml."
    if kind == "value_error":  # a check of our own, which tells what it found
        told = problem["msg"].removeprefix("Value error, ")
        return f"{dotted}: {told}" if dotted else told
    return f"{dotted}: {problem['msg']}, found {problem['input']!r:.80}"


def nearest_key(key: str, known: list[str]) -> str:
    """The end of a message about the unknown `key`: the nearest of the known ones, or all of them, or nothing."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def _keys_beside(place: tuple, root: type[BaseModel]) -> list[str]:
    """The keys that the section holding the last name of `place`, told from `root` on, knows."""
    section: Any = root
    for key in place[:-1]:
        if get_origin(section) in (list, dict):  # the key is a place or a name of the user's own
            section = get_args(section)[-1]
        else:
            section = section.model_fields[key].annotation
    return list(section.model_fields) if hasattr(section, "model_fields") else []
