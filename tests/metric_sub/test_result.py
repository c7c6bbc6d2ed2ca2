"""result.json: what is written is what is read, and what does not fit is refused in words."""

import copy
import json

import numpy as np
import pandas as pd
import pytest

from metric_sub.result import ResultEntry, build_result, check_result, read_result, write_result
from metric_sub.vote import FRAME_BOX, ITEM_BOX
from shared.errors import UserError

ENTRY = {
    "item_id": "010001",
    "frame_index": 120,
    "result": [{"img_name": "0", "item_box": [1.0, 2.0, 30.5, 40.25], "frame_box": [5.0, 6.0, 70.0, 80.0]}],
}


def matches_of(*rows):
    """Matches from (item_id, video_id, frame_index, img_name, item box, frame box)."""
    table = pd.DataFrame(
        [[*row[:4], *row[4], *row[5]] for row in rows],
        columns=["item_id", "video_id", "frame_index", "img_name", *ITEM_BOX, *FRAME_BOX],
    )
    return table.astype(dict.fromkeys([*ITEM_BOX, *FRAME_BOX], "float32"))


def test_build_result_sorts_by_video_and_rounds_boxes():
    matches = matches_of(
        ("a", "9", 80, "0", (0.1, 12.345, 100.996, 200), (1, 2, 3, 4)),
        ("b", "10", 100, "front", (0, 0, 1 / 3, 2 / 3), (0, 0, 10, 10)),
    )
    result = build_result(matches)
    assert list(result) == ["10", "9"]
    assert result["9"] == {
        "item_id": "a",
        "frame_index": 80,
        "result": [{"img_name": "0", "item_box": [0.1, 12.35, 101.0, 200.0], "frame_box": [1.0, 2.0, 3.0, 4.0]}],
    }
    assert result["10"]["result"][0]["item_box"] == [0.0, 0.0, 0.33, 0.67]
    json.dumps(result)  # plain numbers, not numpy's


def test_build_result_refuses_two_matches_of_one_video():
    row = ("v", 0, "0", (0, 0, 1, 1), (0, 0, 1, 1))
    with pytest.raises(ValueError, match="one match per video"):
        build_result(matches_of(("a", *row), ("b", *row)))


def test_round_trip(tmp_path):
    matches = matches_of(("衣", "视频 1", 80, "正面", (0.1, 0.2, 0.3, 0.4), np.arange(4)))
    path = tmp_path / "result.json"
    write_result(build_result(matches), path)
    text = path.read_text(encoding="utf-8")
    assert (
        "视频 1" in text and text.startswith('{\n "') and [file.name for file in tmp_path.iterdir()] == ["result.json"]
    )
    assert {video: entry.model_dump() for video, entry in read_result(path).items()} == build_result(matches)


def test_an_empty_result_is_a_result(tmp_path):
    write_result({}, tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == {}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_result({"v": ENTRY}, path)
    with pytest.raises(TypeError):
        write_result({"v": object()}, path)
    assert list(read_result(path)) == ["v"] and len(list(tmp_path.iterdir())) == 1


def test_writing_into_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be written.*Name another place"):
        write_result({}, tmp_path / "nowhere" / "result.json")


def test_entries_are_values():
    entry = check_result({"v": ENTRY})["v"]
    assert isinstance(entry, ResultEntry) and entry.result[0].item_box == [1.0, 2.0, 30.5, 40.25]
    assert check_result({"v": {**ENTRY, "frame_index": 0}})["v"].frame_index == 0


def changed(path, value):
    """ENTRY with the value at a path of keys replaced, or removed where value is `...`."""
    entry = copy.deepcopy(ENTRY)
    node = entry
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return entry


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["item_id"], ..., ["'item_id'", "missing"]),
        (["item_id"], 10001, ["'item_id'", "string", "found 10001"]),
        (["frame_index"], "120", ["'frame_index'", "integer", 'found "120"']),
        (["frame_index"], -1, ["'frame_index'", "greater than or equal to 0", "found -1"]),
        (["frame_index"], 2**63, ["'frame_index'", "less than or equal to 9223372036854775807", "found 9223372036854775808"]),
        (["frame_index"], 1.5, ["'frame_index'", "integer", "found 1.5"]),
        (["frame_index"], True, ["'frame_index'", "integer", "found true"]),
        (["result"], [], ["'result'", "at least 1 item", "found []"]),
        (["result"], {}, ["'result'", "list", "found {}"]),
        (["extra"], 1, ["'extra'", "unknown", "Expected item_id, frame_index, result"]),
        (["result", 0, "img_name"], 0, ["'result.0.img_name'", "string", "found 0"]),
        (["result", 0, "item_box"], ..., ["'result.0.item_box'", "missing"]),
        (["result", 0, "item_box"], [1, 2, 3], ["'result.0.item_box'", "at least 4", "found [1, 2, 3]"]),
        (["result", 0, "item_box"], [1, 2, 3, 4, 5], ["'result.0.item_box'", "at most 4"]),
        (["result", 0, "item_box", 2], "30", ["'result.0.item_box.2'", "number", 'found "30"']),
        (["result", 0, "frame_box", 0], float("nan"), ["'result.0.frame_box.0'", "finite", "found NaN"]),
        (["result", 0, "frame_box"], [9, 0, 1, 1], ["'result.0.frame_box'", "x1 <= x2", "found [9, 0, 1, 1]"]),
    ],
)
def test_refusals_name_the_video_the_key_and_what_was_found(tmp_path, path, value, words):
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"070009": ENTRY, "070001": changed(path, value)}), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        read_result(file)
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    for word in [str(file), "'070001'", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "found a list"),
        ("null", "found a NoneType"),
        ('{"v": []}', "video 'v'"),
        ('{"v": 1, "v": 2}', "'v' stands twice"),
        ('{"v": {"item_id": "a", "item_id": "b"}}', "'item_id' stands twice"),
    ],
)
def test_refuses_what_is_no_result(tmp_path, text, words):
    file = tmp_path / "result.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as refusal:
        read_result(file)
    assert str(file) in str(refusal.value)


def test_refuses_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file.*Run inference first"):
        read_result(tmp_path / "result.json")
    (tmp_path / "result.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(UserError, match="not UTF-8"):
        read_result(tmp_path / "result.json")


def test_further_pairs_stand_behind_the_matchs_own():
    matches = matches_of(("a", "9", 80, "0", (0, 0, 1, 1), (1, 2, 3, 4)), ("b", "10", 100, "x", (0, 0, 2, 2), (5, 6, 7, 8)))
    pairs = matches_of(("a", "9", 80, "1", (0, 0, 3, 3), (2, 2, 9, 9)), ("a", "9", 80, "0", (4, 4, 5, 5), (0, 0, 1, 9)))
    result = build_result(matches, pairs)
    assert [(listed["img_name"], listed["item_box"][2], listed["frame_box"][3]) for listed in result["9"]["result"]] == [
        ("0", 1, 4),
        ("1", 3, 9),
        ("0", 5, 9),
    ]
    assert result["10"] == build_result(matches)["10"]
