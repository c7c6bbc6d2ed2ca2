"""Annotations that are broken, strange or hostile, written by the test that uses them."""

import codecs
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """What stands in the place of a sound annotation. fault: words of what is told of it; None: it is read.
    keeps: whether the picture stays labelled when what does not fit is left out."""

    write: Callable[[Path], object]
    fault: str | None
    keeps: bool = False


def entry(**changes) -> dict:
    return {"label": "top", "viewpoint": 0, "display": 1, "instance_id": 20000001, "box": [10, 8, 48, 60], **changes}


def text(data: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data.encode() if isinstance(data, str) else data)


def photo(*entries: dict) -> Callable[[Path], object]:
    return text(json.dumps({"annotations": entries}))


def video(*indices: object) -> Callable[[Path], object]:
    return text(json.dumps({"frames": [{"frame_index": index, "annotations": [entry()]} for index in indices]}))


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.unlink()
        make(path)

    return write


SOUND = json.dumps({"annotations": [entry()]})
BAD_BOX = "expected x1 < x2 and y1 < y2"
BAD_ID = "expected 0 or less, or 2, five digits of the item, two digits"

PHOTOS = {  # in the place of the annotation of a photo of 64 x 96
    "empty file": Case(text(""), "JSON"),
    "no JSON": Case(text("{"), "JSON"),
    "another file": Case(text(b"\x89PNG\r\n\x1a\n"), "expected UTF-8"),
    "a list": Case(text("[]"), "file: "),
    "a number": Case(text("3"), "file: "),
    "without annotations": Case(text("{}"), "annotations: Field required"),
    "annotations that are no list": Case(text('{"annotations": {"a": 1}}'), "annotations: "),
    "an entry that is none": Case(text('{"annotations": [null]}'), "annotations.0: "),
    "without label": Case(photo({"instance_id": 0, "box": [1, 2, 3, 4]}), "annotations.0.label: Field required"),
    "without box": Case(photo({"instance_id": 0, "label": "a"}), "annotations.0.box: Field required"),
    "without instance_id": Case(
        photo({"label": "a", "box": [1, 2, 3, 4]}), "annotations.0.instance_id: Field required"
    ),
    "a label that is a number": Case(photo(entry(label=3)), "annotations.0.label: "),
    "a box of three": Case(photo(entry(box=[1, 2, 3])), "annotations.0.box"),
    "a box of five": Case(photo(entry(box=[1, 2, 3, 4, 5])), "annotations.0.box"),
    "a box of words": Case(photo(entry(box=["a", 2, 3, 4])), "annotations.0.box.0: "),
    "a box inside out": Case(photo(entry(box=[48, 8, 10, 60])), BAD_BOX, keeps=True),
    "a flat box": Case(photo(entry(box=[10, 8, 48, 8])), BAD_BOX, keeps=True),
    "a box outside the picture": Case(photo(entry(box=[100, 100, 140, 150])), "leaves the picture of 64 x 96"),
    "a box that leaves the picture": Case(photo(entry(box=[10, 8, 70, 60])), "leaves the picture of 64 x 96"),
    "a box beyond the edge by a pixel": Case(photo(entry(box=[-1, 8, 65, 97])), None),
    "NaN": Case(text(SOUND.replace("10, 8,", "NaN, 8,")), "annotations.0.box.0: "),
    "infinity": Case(text(SOUND.replace("48, 60", "48, Infinity")), "annotations.0.box.3: "),
    "a number beyond any picture": Case(photo(entry(box=[10, 8, 48, 10**15])), "annotations.0.box.3: "),
    "1e400": Case(text(SOUND.replace("48, 60", "48, 1e400")), "annotations.0.box.3: "),
    "an instance_id of another shape": Case(photo(entry(instance_id=7)), BAD_ID, keeps=True),
    "an instance_id of nine digits": Case(photo(entry(instance_id=200000012)), BAD_ID, keeps=True),
    "an instance_id of 30 digits": Case(photo(entry(instance_id=10**30)), "annotations.0.instance_id: "),
    "an instance_id of 5000 digits": Case(text(SOUND.replace("20000001", "9" * 5000)), "JSON"),
    "a fraction for an instance_id": Case(photo(entry(instance_id=2.5)), "annotations.0.instance_id: "),
    "a viewpoint of 30 digits": Case(photo(entry(viewpoint=10**30)), "annotations.0.viewpoint: "),
    "half a character": Case(text(SOUND.replace('"top"', '"\\ud800"')), "JSON"),
    "nested 40,000 deep": Case(text("[" * 40_000), "JSON"),
    "nested deep in a key that nobody reads": Case(
        text(SOUND[:-1] + ', "more": ' + "[" * 5000 + "]" * 5000 + "}"), "JSON"
    ),
    "more bytes than allowed": Case(text(SOUND + " " * 100_000), "more than data.max_annotation_bytes (50000)"),
    "UTF-16": Case(text(SOUND.encode("utf-16")), "expected UTF-8, found the byte 0xff at 0"),
    "Latin-1": Case(text(SOUND.replace("top", "käse").encode("latin-1")), "expected UTF-8, found the byte 0xe4"),
    "UTF-8 with a byte order mark": Case(text(codecs.BOM_UTF8 + SOUND.encode()), None),
    "a folder": Case(in_place_of(Path.mkdir), "expected a file"),
    "a pipe": Case(in_place_of(os.mkfifo), "expected a file"),
    "a device without end": Case(in_place_of(lambda path: path.symlink_to("/dev/zero")), "expected a file"),
    "a link to nothing": Case(in_place_of(lambda path: path.symlink_to("gone")), "cannot be read"),
    "a link to itself": Case(in_place_of(lambda path: path.symlink_to(path)), "cannot be read"),
    "a link to a file elsewhere": Case(
        in_place_of(lambda path: path.symlink_to(_elsewhere(path.parents[3] / "elsewhere.json"))), None
    ),
    "the same product twice": Case(photo(entry(), entry(box=[4, 66, 30, 90])), None),
    "keys that nobody reads": Case(text(SOUND[:-1] + ', "more": {"a": [1]}}'), None),
}

VIDEOS = {  # in the place of the annotation of a video of 24 frames
    "no JSON": Case(text("nothing"), "JSON"),
    "without frames": Case(text("{}"), "frames: Field required"),
    "a frame without index": Case(text('{"frames": [{"annotations": []}]}'), "frames.0.frame_index: Field required"),
    "a frame twice": Case(video(0, 8, 8), "frame 8: labelled more than once", keeps=True),
    "frames that the video does not have": Case(video(0, 24, 400), "the video has no frames [24, 400]", keeps=True),
    "a frame below 0": Case(video(0, -8), "frames.1.frame_index: "),
    "a frame of 30 digits": Case(video(0, 10**30), "frames.1.frame_index: "),
    "a frame index that is text": Case(video("first"), "frames.0.frame_index: "),
}


def _elsewhere(path: Path) -> Path:
    path.write_text(SOUND)
    return path
