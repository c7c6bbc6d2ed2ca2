"""Mutations of valid files, as hypothesis strategies: each draws a few changes, so that a failing input shrinks to one.

A document is changed where it has structure (a key, a value, a box of an MP4, a column of a table), and its bytes as they are.
"""

import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pandas as pd
from hypothesis import strategies as st

HUGE, DEEP = "@huge@", "@deep@"  # stand for what json.dumps would not write
NESTED = 20_000
RAW = {f'"{HUGE}"': "9" * 5000, f'"{DEEP}"': "[" * NESTED + "]" * NESTED}
ODD_VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        2**31,
        -(2**31),
        2**63,
        -(2**63) - 1,
        2**64,
        10**400,
        1e308,
        -1e308,
        1e-320,
        -0.0,
        1.5,
    ),
    *(float("nan"), float("inf"), float("-inf"), HUGE, DEEP),
    *(
        "",
        "0",
        "1",
        "-1",
        "nan",
        "true",
        "None",
        " ",
        "\n",
        "\0",
        "a\nb",
        "\ud800",
        "é",
        "\u202e",
        "😀",
        "a" * 5000,
        "=1+1",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "a/b",
        "C:\\a",
        "~",
        "</script>",
        "<img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}",
    ),
    *("$(touch ../ran)", "'; --", "%s%n", "$\\frac{"),
    *([], {}, [[]], [None], {"": None}, [[[[[]]]]], [0] * 1000, {"a": {"a": {"a": {}}}}),
]
ODD_NUMBERS = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
]
TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x80",
        b"\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"NaN",
        b"1e999",
        b"-",
    ),
    *(
        b"null",
        b"\\ud800",
        b"[" * 500,
        b"<!--",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"!!python/object/apply:os.system ['true']",
        b"%YAML 9.9",
    ),
]
PLACE = st.integers(0, 2**24 - 1)  # of a change, as a share of the whole
BYTE_CHANGES = ["flip", "number", "cut", "repeat", "insert", "truncate", "zero", "move", "many"]
BYTE_CHANGE = st.tuples(st.sampled_from(BYTE_CHANGES), PLACE, PLACE, st.integers(0, 255))
BYTES = st.lists(BYTE_CHANGE, max_size=5)
TREE_CHANGES = ["set", "set", "set", "delete", "rename", "repeat", "swap", "wrap"]
TREE_CHANGE = st.tuples(st.sampled_from(TREE_CHANGES), PLACE, PLACE, st.sampled_from(ODD_VALUES))
TREE = st.lists(TREE_CHANGE, max_size=4)


def change_bytes(data: bytes, changes: list[tuple]) -> bytes:
    """The bytes after each change (name, where, other place, number) in turn."""
    for name, where, other, number in changes:
        at, to = (place * (len(data) + 1) >> 24 for place in (where, other))
        size = 1 << number % 12
        if name == "flip":
            data = data[:at] + bytes(byte ^ 1 << number % 8 for byte in data[at : at + 1]) + data[at + 1 :]
        elif name == "number":
            width, order = (1, 2, 4, 8)[number % 4], "<>"[number // 4 % 2]
            value = ODD_NUMBERS[other % len(ODD_NUMBERS)] % 2 ** (8 * width)
            data = data[:at] + struct.pack(order + "BHIQ"[number % 4], value) + data[at + width :]
        elif name == "cut":
            data = data[:at] + data[at + size :]
        elif name == "repeat":
            data = data[: at + size] + data[at : at + size] * (1 + number % 3) + data[at + size :]
        elif name == "insert":
            data = data[:at] + TOKENS[number % len(TOKENS)] + data[at:]
        elif name == "truncate":
            data = data[:at]
        elif name == "zero":
            data = data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
        elif name == "move":
            data = data[:to] + data[at : at + size] + data[to + size :]
        else:  # many single bytes over a stretch
            stretch = bytearray(data[at : at + 64 * size])
            for k in range(0, len(stretch), 1 + number % 61):
                stretch[k] = (stretch[k] * 7 + number) % 256
            data = data[:at] + bytes(stretch) + data[at + 64 * size :]
    return data


def change_tree(tree: object, changes: list[tuple]) -> object:
    """A JSON-like tree after each change (name, where, other place, value) in turn; the tree that was given stays."""
    tree = deepcopy(tree)
    for name, where, other, value in changes:
        places = list(_places(tree))
        if not places:
            return deepcopy(value)
        parent, key = places[where * len(places) >> 24]
        if name == "set":
            parent[key] = deepcopy(value)
        elif name == "delete":
            del parent[key]
        elif name == "rename" and isinstance(parent, dict):
            parent[value if isinstance(value, str) else f"{key}x"] = parent.pop(key)
        elif name == "repeat" and isinstance(parent, list):
            parent[key:key] = [deepcopy(parent[key]) for _ in range(1 + other % 40)]
        elif name == "swap":
            parent2, key2 = places[other * len(places) >> 24]
            parent[key] = deepcopy(parent2[key2])
        elif name == "wrap":
            parent[key] = [parent[key]] if other % 2 else {"a": parent[key]}
    return tree


def _places(node: object, depth: int = 0):
    """Every (parent, key) in the tree, in document order."""
    if depth < 50 and isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key], depth + 1)


def json_bytes(tree: object, plain: bool = True) -> bytes:
    text = json.dumps(tree, ensure_ascii=plain)
    for word, raw in RAW.items():
        text = text.replace(word, raw)
    return text.encode("utf-8", "surrogatepass")


def json_files(trees: list[object]) -> st.SearchStrategy[bytes]:
    """Mutations of one of the trees as JSON, and of its text."""
    return st.builds(
        lambda tree, changes, plain, text: change_bytes(json_bytes(change_tree(tree, changes), plain), text),
        st.sampled_from(trees),
        TREE,
        st.booleans(),
        st.one_of(st.just([]), BYTES),
    )


YAML_WORDS = [
    *(
        "",
        "~",
        "yes",
        "[",
        "{a: b}",
        "- x",
        "&a [*a]",
        "*a",
        "!!python/object/apply:os.system ['touch ../ran']",
        "!!python/name:os.system",
    ),
    *(
        "!!binary x",
        "!!timestamp x",
        "!!int ''",
        "!!bool x",
        "!!float .",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!pairs [a]",
        "!x y",
        "2001-99-99",
    ),
    *(
        "9" * 5000,
        "1:" * 3000 + "1",
        "0x" + "f" * 300,
        ".nan",
        ".inf",
        "-1",
        "1e400",
        "0",
        "'",
        '"\\x',
        "|",
        "? a",
        "[" * 3000,
        "{[1]: 2}",
    ),
    *(
        "<<: *a",
        "a: &a {b: 1}",
        "%TAG ! tag:x",
        "---",
        "...",
        "\t",
        "a: b: c",
        "\u0085",
        "\0",
        "{? {a: b} : c}",
        "10000000000",
        "2",
        "1.5",
    ),
]


def text_lines(texts: list[str], words: list[str]) -> st.SearchStrategy[bytes]:
    """Mutations of a text's lines: a value replaced by a word, lines dropped, repeated, moved, shifted; and of its bytes."""
    change = st.tuples(
        st.sampled_from(["value", "value", "drop", "repeat", "move", "shift", "line"]),
        PLACE,
        PLACE,
        st.sampled_from(words),
    )

    def build(text: str, changes: list[tuple], raw: list[tuple]) -> bytes:
        lines = text.split("\n")
        for name, where, other, word in changes:
            at, to = (place * len(lines) >> 24 for place in (where, other))
            if name == "value":
                key, colon, _ = lines[at].partition(":")
                lines[at] = f"{key}: {word}" if colon else word
            elif name == "drop":
                del lines[at]
            elif name == "repeat":
                lines[to:to] = lines[at : at + 1 + other % 7]
            elif name == "move":
                lines.insert(to, lines.pop(at))
            elif name == "shift":
                lines[at] = "  " * (other % 3) + lines[at].strip()
            else:
                lines.insert(at, word)
            lines = lines or [""]
        return change_bytes("\n".join(lines).encode("utf-8", "surrogatepass"), raw)

    return st.builds(
        build, st.sampled_from(texts), st.lists(change, max_size=4), st.one_of(st.just([]), st.just([]), BYTES)
    )


def raw_files(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mutations of the bytes of one of the seeds, now and then with a piece of another one in it."""

    def build(data: bytes, changes: list[tuple], other: bytes, splice: tuple[int, int, int] | None) -> bytes:
        if splice:
            at, start, size = splice
            at, start = at * len(data) >> 24, start * len(other) >> 24
            data = data[:at] + other[start : start + size] + data[at + size :]
        return change_bytes(data, changes)

    splice = st.one_of(st.none(), st.none(), st.tuples(PLACE, PLACE, st.integers(1, 4096)))
    return st.builds(
        build, st.sampled_from(seeds), st.lists(BYTE_CHANGE, min_size=1, max_size=6), st.sampled_from(seeds), splice
    )


def chunked_files(
    seeds: list[bytes], split: Callable[[bytes], list[bytes]], join: Callable[[list[bytes]], bytes]
) -> st.SearchStrategy[bytes]:
    """Mutations of a file of chunks: whole chunks dropped, repeated and swapped, and the bytes inside of some, which `join`
    puts together again with right lengths and checksums."""
    change = st.tuples(st.sampled_from(["drop", "repeat", "swap", "inside", "inside", "inside"]), PLACE, PLACE, BYTES)

    def build(data: bytes, changes: list[tuple]) -> bytes:
        chunks = split(data)
        for name, where, other, inside in changes:
            if not chunks:
                break
            at, to = (place * len(chunks) >> 24 for place in (where, other))
            if name == "drop":
                del chunks[at]
            elif name == "repeat":
                chunks.insert(to, chunks[at])
            elif name == "swap":
                chunks[at], chunks[to] = chunks[to], chunks[at]
            else:
                chunks[at] = change_bytes(chunks[at], inside)
        return join(chunks)

    return st.builds(build, st.sampled_from(seeds), st.lists(change, min_size=1, max_size=4))


def split_png(data: bytes) -> list[bytes]:
    """A PNG's chunks, each its name and content; no chunks for anything else."""
    chunks, at = [], 8
    while data[:8] == b"\x89PNG\r\n\x1a\n" and at + 8 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append(data[at + 4 : at + 8 + size])
        at += 12 + size
    return chunks


def join_png(chunks: list[bytes]) -> bytes:
    packed = (
        struct.pack(">I", max(0, len(chunk) - 4)) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"moof", b"traf", b"mvex"}


def split_boxes(data: bytes) -> list[bytes]:
    """An MP4's boxes, those inside of the holding ones too: a flat list of b'name' + content, b'(name' opens, b')' closes."""
    boxes, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        if size < 8:
            return [*boxes, name + data[at + 8 :]]
        inside = data[at + 8 : at + size]
        boxes += [b"(" + name, *split_boxes(inside), b")"] if name in HOLDERS else [name + inside]
        at += size
    return boxes


def join_boxes(boxes: list[bytes]) -> bytes:
    open_boxes: list[tuple[bytes, bytes]] = [(b"", b"")]
    for box in boxes:
        if box[:1] == b"(":
            open_boxes.append((box[1:5].ljust(4), b""))
        elif box == b")":
            if len(open_boxes) > 1:
                name, inside = open_boxes.pop()
                outer, before = open_boxes.pop()
                open_boxes.append((outer, before + struct.pack(">I", 8 + len(inside)) + name + inside))
        else:
            name, before = open_boxes.pop()
            open_boxes.append((name, before + struct.pack(">I", 4 + max(4, len(box))) + box.ljust(4)))
    return b"".join(inside for _, inside in open_boxes)


def split_zip(data: bytes) -> list[bytes]:
    """A zip's members, each its name, a zero, its content."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [name.encode() + b"\0" + archive.read(name) for name in archive.namelist()]


def join_zip(members: list[bytes]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w") as archive:  # of two members of one name
        for member in members:
            name, _, content = member.partition(b"\0")
            archive.writestr(zipfile.ZipInfo(name.decode("latin-1")[:1000] or "x"), content)
    return out.getvalue()


def split_safetensors(data: bytes) -> list[bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return [data[8 : 8 + size], data[8 + size :]]


def safetensors_files(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mutations of the header's JSON, with its right length before it, and of the numbers."""

    def build(data: bytes, changes: list[tuple], plain: bool, text: list[tuple], inside: list[tuple]) -> bytes:
        header, numbers = split_safetensors(data)
        header = change_bytes(json_bytes(change_tree(json.loads(header), changes), plain), text)
        return struct.pack("<Q", len(header)) + header + change_bytes(numbers, inside)

    nothing = st.just([])
    return st.builds(
        build,
        st.sampled_from(seeds),
        TREE,
        st.booleans(),
        st.one_of(nothing, nothing, BYTES),
        st.one_of(nothing, nothing, BYTES),
    )


class Hostile:
    """What a careless unpickler would run: it writes a file where none may be written."""

    def __reduce__(self):
        return open, ("../ran", "w")

    def __deepcopy__(self, memo: dict):
        return self


def pickle_files(trees: list[object]) -> st.SearchStrategy[bytes]:
    """Mutations of pickled trees: of their values, some of them hostile, and of the pickle's bytes."""
    values = st.sampled_from(
        [*ODD_VALUES, Hostile(), Hostile, np.array([Hostile()], dtype=object), np.float32(1), print, 1j, b"", set()]
    )
    tree = st.lists(st.tuples(st.sampled_from(TREE_CHANGES), PLACE, PLACE, values), max_size=3)

    def build(seed: object, changes: list[tuple], protocol: int, raw: list[tuple]) -> bytes:
        return change_bytes(pickle.dumps(change_tree(seed, changes), protocol), raw)

    return st.builds(build, st.sampled_from(trees), tree, st.integers(0, 5), st.one_of(st.just([]), BYTES))


COLUMN_CHANGES = ["drop", "rename", "text", "null", "value", "value", "value", "list", "float", "copy", "index"]
ROW_CHANGES = ["rows", "empty", "double"]
TABLE = st.lists(
    st.tuples(st.sampled_from([*COLUMN_CHANGES, *ROW_CHANGES]), PLACE, PLACE, st.sampled_from(ODD_VALUES)),
    min_size=1,
    max_size=4,
)


def change_table(table: pd.DataFrame, changes: list[tuple]) -> pd.DataFrame:
    """A table after each change (name, where, other place, value) in turn: columns dropped or of another type, odd values."""
    for name, where, other, value in changes:
        if not len(table.columns):
            break
        column = table.columns[where * len(table.columns) >> 24]
        row = other * max(1, len(table)) >> 24
        if name == "drop":
            table = table.drop(columns=column)
        elif name == "rename":
            table = table.rename(columns={column: f"{column}x"})
        elif name == "text":
            table = table.assign(**{column: table[column].astype(str)})
        elif name == "null":
            table = table.assign(**{column: None})
        elif name == "value" and len(table):
            values = table[column].tolist()
            values[row] = value
            table = table.assign(**{column: _column(values)})
        elif name == "list":
            table = table.assign(**{column: [[entry] for entry in table[column]]})
        elif name == "float":
            table = table.assign(**{column: np.linspace(-1, 1e9, len(table))})
        elif name == "copy":
            table = table.assign(**{column: table[table.columns[other * len(table.columns) >> 24]]})
        elif name == "index":
            table = table.set_index(column)
        elif name == "rows":
            table = table.iloc[:row]
        elif name == "empty":
            table = table.iloc[:0]
        else:
            table = pd.concat([table, table.iloc[: row + 1]], ignore_index=True)
    return table


def _column(values: list) -> pd.Series:
    try:
        return pd.Series(values)
    except (OverflowError, ValueError, TypeError):
        return pd.Series(values, dtype=object)


def parquet_files(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mutations of a Parquet file's table, written whole again, and of its bytes."""

    def build(data: bytes, changes: list[tuple], raw: list[tuple]) -> bytes:
        out = io.BytesIO()
        try:
            change_table(pd.read_parquet(io.BytesIO(data)), changes).to_parquet(out)
        except Exception:  # a table that Parquet cannot hold is no input
            return data[: len(data) // 2]
        return change_bytes(out.getvalue(), raw)

    return st.builds(build, st.sampled_from(seeds), TABLE, st.one_of(st.just([]), st.just([]), BYTES))
