"""The comparison of the matching options: cut-offs worked by hand, and a run over boxes whose vectors are their products."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.match_options import ROWS, compare, cut_off_of, detected_boxes, read_cut_offs, table
from benchmarks.voting import OPTIONS as RULES
from benchmarks.voting import main as vote
from metric_sub.labelled import labelled_boxes
from shared.config import FrameList
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.work import Step
from tests.limits import LIMITS

FRAMES = FrameList(start=0, stop=16, step=8)


def boxes_and_vectors(tiny_data):
    dataset = read_dataset(tiny_data, LIMITS)
    boxes = labelled_boxes(dataset, FRAMES)
    numbers = np.unique(boxes.instance_id.where(boxes.instance_id > 0, -boxes.index - 1), return_inverse=True)[1]
    return dataset, boxes, np.eye(numbers.max() + 1, dtype=np.float32)[numbers]


def test_every_option_finds_what_there_is_to_find(tiny_data, tiny_config):
    dataset, boxes, vectors = boxes_and_vectors(tiny_data)
    rows = compare(boxes, vectors, dataset, tiny_config.match, tiny_config.score, ROWS)
    assert [row["name"] for row in rows] == [*ROWS]
    assert rows[0]["S1"] == rows[0]["all"] == 1 and 0 <= rows[0]["max_distance"] <= 0.001
    assert all(row["all"] >= 0.6 for row in rows)
    lines = table(rows)
    assert len(lines) == len(rows) + 1 and lines[1].split() == ["plain", "1.000", lines[1].split()[2], *["1.000"] * 3]


def test_cut_offs_of_other_data_are_used_as_they_are(tiny_data, tiny_config, tmp_path):
    dataset, boxes, vectors = boxes_and_vectors(tiny_data)
    path = tmp_path / "rows.json"
    rows = [{"name": "plain", "max_distance": -1.0}, {"name": "optimal", "max_distance": 0.5, "S1": None}]
    path.write_text(json.dumps({"labelled boxes": rows}))
    cut_offs = read_cut_offs(path)
    assert cut_offs == {"labelled boxes": {"plain": -1.0, "optimal": 0.5}}
    changes = {name: ROWS[name] for name in ("plain", "optimal")}
    rows = compare(boxes, vectors, dataset, tiny_config.match, tiny_config.score, changes, cut_offs["labelled boxes"])
    assert rows[0]["S1"] == 1 and rows[0]["all"] == 0  # everything is farther than -1
    assert rows[1]["all"] == 1 and rows[1]["max_distance"] == 0.5


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"a": [{"name": "plain"}]}'])
def test_what_is_no_file_of_cut_offs_is_refused(text, tmp_path):
    path = tmp_path / "rows.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"rows\.json: expected what --json"):
        read_cut_offs(path)


def test_the_best_cut_off_leaves_out_what_is_wrong():
    """Of the videos v, w and u: S1 is 2/4 with the nearest match, 4/5 with two, 4/6 with three and 4/7 with all."""
    matches = pd.DataFrame(
        {"item_id": list("vwxu"), "video_id": list("vwuz"), "distance": np.float32([0.25, 0.5, 0.75, 1.0])}
    )
    assert 0.5 <= cut_off_of(matches, ["v", "w", "u"]) < 0.75
    assert cut_off_of(matches[2:], ["v", "w", "u"]) == 2  # none is right: all stay


def test_detections_are_those_of_the_data(tiny_data, tmp_path):
    dataset, boxes, vectors = boxes_and_vectors(tiny_data)
    for kind in ("photo", "video"):
        chosen = (boxes.kind == kind).to_numpy()
        step = Step(tmp_path / "embeddings" / f"{kind}s", {"kind": kind})
        table = boxes[chosen].drop(columns="kind").assign(place=np.flatnonzero(chosen))
        step.build_parts(1, lambda k, table=table, chosen=chosen: ({"table": table, "vectors": vectors[chosen]}, []))
        step.finish(1, ["table", "vectors"], {"table": table.iloc[:0], "vectors": vectors[:0]})
    found, of_found = detected_boxes(tmp_path, dataset)
    assert len(found) == len(boxes) and (of_found == vectors[found.place]).all()
    assert (found.kind == boxes.kind[found.place].to_numpy()).all()
    part = dataset.of_media(dataset.media.part == "validation")
    assert set(detected_boxes(tmp_path, part)[0].media_id) <= set(part.media.media_id)
    with pytest.raises(UserError, match="of other data"):
        detected_boxes(tmp_path, dataset.of_media(dataset.media.part == "none"))


def test_voting_gives_what_a_loop_gives(capsys):
    vote(["--items", "300"])
    printed = capsys.readouterr().out
    assert "equal matches yes" in printed and all(name in printed for name in RULES)
