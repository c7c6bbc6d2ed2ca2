"""Changes to the plain tree of a config: dotted overrides, and one section over another."""

from typing import Any

from shared.config_words import nearest_key
from shared.errors import UserError
from shared.parse import parse_yaml


def apply_override(tree: dict, override: str) -> None:
    """Sets one dotted key in the plain tree: `match.keep_quantile=0.3`. Keys must exist there: an override changes, it never adds.

    Raises UserError where a key does not exist (it names the nearest one) and where the value is not YAML.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: expected section.key=value, for example match.keep_quantile=0.3")
    node: Any = tree
    for depth, key in enumerate(keys):
        known = _keys_of(node)
        if key not in known:
            raise UserError(f"override {override!r}: no key {'.'.join(keys[: depth + 1])!r}{nearest_key(key, known)}")
        key = int(key) if isinstance(node, list) else key
        if depth == len(keys) - 1:
            try:
                node[key] = parse_yaml(text)
            except ValueError as error:
                raise UserError(f"override {override!r}: the value is not valid YAML: {error}") from None
        node = node[key]


def _keys_of(node: Any) -> list[str]:
    if isinstance(node, list):
        return [str(i) for i in range(len(node))]
    return list(node) if isinstance(node, dict) else []


def changed(tree: dict, changes: dict) -> dict:
    """The tree with other values; sections are changed key by key."""
    return tree | {
        key: changed(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
