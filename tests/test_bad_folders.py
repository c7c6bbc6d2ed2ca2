"""Names, links and folders of all sorts: what is used, what is left out on record, and that nothing waits for ever."""

import json
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.catalogue import catalogue_media, tell_skipped
from shared.check import main as check
from shared.dataset import read_dataset, read_media
from shared.errors import UserError, printable
from shared.media import MediaError, probe_photo, read_frames, read_photo
from tests.bad_media import picture, small_video
from tests.conftest import PROJECT
from tests.limits import LIMITS

NOBODY = 65534


@pytest.fixture
def root(tmp_path) -> Path:
    """A sound item with a photo and a video."""
    (tmp_path / "data" / "image" / "sound").mkdir(parents=True)
    (tmp_path / "data" / "video").mkdir()
    picture().save(tmp_path / "data" / "image" / "sound" / "0.jpg")
    small_video(tmp_path / "data" / "video" / "sound.mp4")
    return tmp_path / "data"


SOUND = ["image/sound/0.jpg", "video/sound.mp4"]


def left_out(root: Path) -> dict[str, str]:
    """media_id -> why of what is left out before any file is opened."""
    media, problems = read_media(root, LIMITS)
    assert set(SOUND) <= set(media.media_id)
    assert {problem.path for problem in problems} == {f"{root}/{problem.media_id}" for problem in problems}
    return {problem.media_id: problem.fault for problem in problems}


def test_what_is_left_out_is_in_the_manifest_and_in_one_list(root):
    os.mkfifo(root / "video" / "1.mp4")
    (root / "image" / "empty").mkdir()
    work = root.parent / "work"
    step = catalogue_media(root, work, LIMITS, fresh=False, strict=False)
    assert step.table("table").media_id.tolist() == SOUND
    assert {entry["media_id"]: entry["reason"] for entry in step.manifest["skipped"]} == left_out(root)
    tell_skipped(work)
    listed = json.loads((work / "skipped.json").read_text())
    assert listed == [{"step": "media", **entry} for entry in step.manifest["skipped"]] and len(listed) == 2
    (root / "video" / "1.mp4").unlink()  # mended, the step is made anew
    again = catalogue_media(root, work, LIMITS, fresh=False, strict=False)
    assert [entry["media_id"] for entry in again.manifest["skipped"]] == ["image/empty"]


NAMES = {
    "spaces": " a  b ",
    "quotes": 'it\'s "so"',
    "newline": "two\nlines",
    "tab and escape": "a\tb\x1b[31m",
    "non-ASCII": "käse 短袖 🩳",
    "leading dash": "--data",
    "shell": "$(touch x);`id`&|*?",
    "percent": "%00%2e%2e%d",
    "backslash": "a\\..\\b",
    "markup": "<img src=x onerror=alert(1)>",
    "dots": "a..b.",
    "colon": "http:x",
    "very long": "x" * 240,
}


@pytest.mark.parametrize("name", NAMES)
def test_name(root, name):
    """An item, a photo and a video of this name are used as any other."""
    text = NAMES[name]
    (root / "image" / text).mkdir()
    picture(1).save(root / "image" / text / f"{text}.png")
    small_video(root / "video" / f"{text}.mp4")
    for kind, parts in (("image", (text, f"{text}.json")), ("video", (f"{text}.json",))):
        path = root.joinpath(f"{kind}_annotation", *parts)
        path.parent.mkdir(parents=True)
        path.write_text('{"annotations": [], "frames": [{"frame_index": 3, "annotations": []}]}')
    assert left_out(root) == {}
    dataset = read_dataset(root, LIMITS)
    assert dataset.problems == []
    found = dataset.media[dataset.media.item_id == text]
    assert found.kind.tolist() == ["photo", "video"] and found["name"].tolist() == [text, text]
    assert set(dataset.labelled.media_id) == set(found.media_id)
    assert probe_photo(found.path.iloc[0], LIMITS.max_pixels).width == 64
    [(index, frame)] = read_frames(found.path.iloc[1], [3], LIMITS.max_pixels)
    assert index == 3 and frame.shape == (96, 64, 3)


@pytest.mark.parametrize("place", ["image/sound/\udcff.jpg", "image/\udcff", "video/\udcff.mp4"])
def test_a_name_that_is_no_utf_8_is_left_out(root, capsys, place):
    path = root / place
    if place == "image/\udcff":
        path.mkdir()
        picture().save(path / "0.jpg")
    else:
        picture().save(path, format="JPEG")
    name = place.replace("\udcff", "\\xff")
    assert left_out(root) == {name: "its name is not valid UTF-8; rename it"}
    with pytest.raises(SystemExit) as ended:
        check(["--data", str(root), "--config", str(PROJECT / "configs" / "tiny.yaml")])
    printed = capsys.readouterr().out
    printed.encode()
    assert ended.value.code == 1 and f"{root}/{name}: its name is not valid UTF-8" in printed


def test_a_part_or_root_that_is_no_utf_8(root, tmp_path):
    (tmp_path / "parts").mkdir()
    root.rename(tmp_path / "parts" / "train")
    (tmp_path / "parts" / "test\udcff" / "video").mkdir(parents=True)
    media, [problem] = read_media(tmp_path / "parts", LIMITS)
    assert set(media.part) == {"train"} and problem.media_id == "test\\xff" and "not valid UTF-8" in problem.fault
    (tmp_path / "parts").rename(tmp_path / "\udcfe")
    with pytest.raises(UserError, match=r"\\xfe: its name is not valid UTF-8"):
        read_media(tmp_path / "\udcfe", LIMITS)


def listen(path: Path) -> None:
    """A socket; its address may be no longer than 107 bytes, so it is made from its folder."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


STRANGE = {  # made at image/sound/1.jpg, image/1.jpg and video/1.mp4 -> why it is left out
    "pipe": (os.mkfifo, "a pipe, socket or device: expected a file"),
    "socket": (listen, "a pipe, socket or device: expected a file"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "a pipe, socket or device: expected a file"),
    "link to nothing": (lambda path: path.symlink_to("gone/away.jpg"), r"a link to nothing (gone/away.jpg)"),
    "link to itself": (lambda path: path.symlink_to(path.name), "a link that leads back to itself"),
}


@pytest.mark.parametrize("place", ["image/sound/1.jpg", "image/1.jpg", "video/1.mp4"])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_file_is_left_out_and_not_waited_for(root, name, place):
    make, reason = STRANGE[name]
    make(root / place)
    assert left_out(root) == {place: reason}


def test_links_to_files_and_folders_elsewhere_are_followed(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    picture(1).save(tmp_path / "elsewhere" / "a.png")
    small_video(tmp_path / "elsewhere" / "b.mp4")
    (root / "image" / "sound" / "linked.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (root / "video" / "linked.mp4").symlink_to(tmp_path / "elsewhere" / "b.mp4")
    (tmp_path / "item").mkdir()
    picture(2).save(tmp_path / "item" / "c.png")
    (root / "image" / "linked item").symlink_to(tmp_path / "item")
    assert left_out(root) == {}
    assert sorted(read_media(root, LIMITS)[0].media_id) == sorted(
        [*SOUND, "image/linked item/c.png", "image/sound/linked.png", "video/linked.mp4"]
    )
    (tmp_path / "linked data").symlink_to(root)
    assert len(read_media(tmp_path / "linked data", LIMITS)[0]) == 5


def test_links_in_circles_end(root):
    (root / "image" / "around").symlink_to(root / "image")
    (root / "video" / "around").symlink_to(root)
    (root / "image" / "sound" / "up").symlink_to(root)
    found = left_out(root)
    assert found.pop("image/sound/up").startswith("a folder too deep")
    assert all(reason.startswith("a folder too deep") for reason in found.values())
    assert set(found) == {"image/around/around", "image/around/sound", "video/around/image", "video/around/video"}


FOLDERS = {
    "image/empty/": "an empty folder: expected photos in it",
    "video/empty/": "an empty folder: expected videos in it",
    "image/sound/deep/": "a folder too deep: expected photos in image/<item>/",
    "image/loose.jpg": "belongs to no item: expected photos in image/<item>/",
    "image/sound/0.png": "has the same name as image/sound/0.jpg up to the extension, and that one is used; rename it",
    "video/sound.webm": "has the same name as video/sound.mp4 up to the extension, and that one is used; rename it",
    "video/z/sound.mp4": "has the same name as video/sound.mp4 up to the extension, and that one is used; rename it",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_stands_in_the_wrong_place(root, name):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        picture().save(path, format="JPEG")
    place = name.rstrip("/")
    assert left_out(root) == {place: FOLDERS[name]}
    assert [(problem.media_id, problem.fault) for problem in read_dataset(root, LIMITS).problems] == [
        (place, FOLDERS[name])
    ]


@pytest.mark.parametrize("folders", [[], ["image"], ["image", "video"], ["image/a"], ["a", "b"]])
def test_a_data_set_of_empty_folders_is_refused_in_words(tmp_path, folders):
    (tmp_path / "data").mkdir()
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"data: (no photo under|expected) "):
        read_media(tmp_path / "data", LIMITS)


@contextmanager
def as_nobody():
    """Whoever is root may read all: these tests are somebody else."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def forbidden():
    """A data set in a folder that everybody may enter, and a function that forbids one of its folders or files."""
    if os.geteuid() != 0:
        pytest.skip("only root can make what somebody else may not read")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = Path(folder) / "data"
        for name in ("image/sound", "image/closed", "image_annotation/sound", "image_annotation/closed", "video"):
            (root / name).mkdir(parents=True)
        for item in ("sound", "closed"):
            picture().save(root / "image" / item / "0.jpg")
            (root / "image_annotation" / item / "0.json").write_text('{"annotations": []}')

        def forbid(name: str) -> Path:
            os.chmod(root / name, 0)
            return root

        yield forbid


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("image/closed", {"image/closed": "cannot be listed (Permission denied)"}),
        ("video", {"video": "cannot be listed (Permission denied)"}),
        ("image_annotation/closed", {"image/closed/0.jpg": "", "image_annotation/closed": ""}),
        ("image_annotation/closed/0.json", {"image/closed/0.jpg": "cannot be read (Permission denied)"}),
    ],
)
def test_folders_and_annotations_without_permission(forbidden, name, found):
    root = forbidden(name)
    with as_nobody():
        dataset = read_dataset(root, LIMITS)
    assert "image/sound/0.jpg" in set(dataset.labelled.media_id)
    others = [problem for problem in dataset.problems if "belongs to this annotation" not in problem.fault]
    assert others and all("Permission denied" in problem.fault for problem in others)
    told = {Path(problem.path).relative_to(root).as_posix() for problem in dataset.problems}
    if name.startswith("image_annotation"):
        assert name in told or f"{name}/0.json" in told
        assert "image/closed/0.jpg" in set(dataset.media.media_id)  # the photo itself can be used
    else:
        assert {problem.media_id: problem.fault for problem in dataset.problems if problem.media_id} == found


def test_a_photo_without_permission_is_left_out(forbidden):
    root = forbidden("image/closed/0.jpg")
    for read in (probe_photo, read_photo):
        with as_nobody(), pytest.raises(MediaError, match=r"^not a readable picture \(Permission denied\)$"):
            read(root / "image/closed/0.jpg", LIMITS.max_pixels)


@pytest.mark.parametrize("name", ["", "image"])
def test_a_root_without_permission_is_refused_in_words(forbidden, name):
    root = forbidden(name)
    with (
        as_nobody(),
        pytest.raises(UserError, match="Permission denied" if not name else "no photo.*Permission denied"),
    ):
        read_media(root, LIMITS)


def test_a_part_without_permission_is_told(forbidden):
    root = forbidden("image/closed").parent
    (root / "closed part" / "image").mkdir(parents=True)
    os.chmod(root / "closed part", 0)
    with as_nobody():
        media, problems = read_media(root, LIMITS)
    assert set(media.part) == {"data"}
    assert "closed part" in {problem.media_id for problem in problems}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain käse 短袖", "plain käse 短袖"),
        ("two\nlines\r\tand\x1b[0m", "two\\nlines\\r\\tand\\x1b[0m"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\ud800", "\\ud800"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
        (Path("/a b"), "/a b"),
    ],
)
def test_printable(text, expected):
    assert printable(text) == expected
    printable(text).encode()
