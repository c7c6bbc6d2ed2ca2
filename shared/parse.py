"""JSON and YAML that others wrote, parsed without harm: whatever is wrong with the text is a ValueError that says so."""

import json
import re
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000  # of a YAML text
MOST_NODES = (
    100_000  # of a YAML document, aliases counted as what they stand for: few lines of them can stand for billions
)
MOST_DIGITS = 100  # of a whole number in YAML: 0xfff... and 1:1:1... make numbers that Python then refuses to write out
LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: bytes | str, **how: Any) -> Any:
    """json.loads(text, **how). Raises ValueError for what is no JSON, is nested too deeply to be read, or has half a
    character (a lone surrogate), which no file could be written with."""
    try:
        tree = json.loads(text, **how)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if LONE_SURROGATE.search(raw):
        try:
            json.dumps(tree, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a character: {error.reason}") from None
    return tree


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text: mappings, lists, text, numbers, dates. Raises ValueError for what is no YAML, asks for
    anything else by a tag, is nested too deeply, refers to itself, has more than MOST_CHARACTERS, expands to more than
    MOST_NODES values, or has a whole number of more than MOST_DIGITS characters."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text)} characters, expected {MOST_CHARACTERS} at most")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bombs(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # PyYAML's constructors raise whatever a value made them stumble over
        raise ValueError(f"{type(error).__name__}: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_bombs(node: yaml.Node) -> None:
    """Raises ValueError where a document with its aliases written out would be endless or too large, or a number of it is."""
    sizes: dict[int, int | None] = {}  # None: of a node that is being measured

    def size_of(node: yaml.Node) -> int:
        if id(node) in sizes:
            if sizes[id(node)] is None:
                raise ValueError("an alias refers to what it stands in")
            return sizes[id(node)]
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MOST_DIGITS:
            raise ValueError(f"a number of {len(node.value)} characters, expected {MOST_DIGITS} at most")
        sizes[id(node)] = None
        inside = [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        total = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(map(size_of, inside)))
        if total > MOST_NODES:
            raise ValueError(f"its aliases expand to more than {MOST_NODES} values")
        sizes[id(node)] = total
        return total

    size_of(node)
