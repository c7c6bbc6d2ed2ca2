"""What changed from one result to another, on a hand-worked case."""

import json

import pytest

from metric_sub.bootstrap import Bootstrap
from metric_sub.compare import compare_scores, compare_table
from metric_sub.score import main
from shared.errors import UserError
from tests.metric_sub.test_score import KINDS, PHOTOS, TRUTH, VIDEOS, A, B, C, D, N, data, entry, score, truth_of

__all__ = ["data"]  # a fixture

FIRST = {A: entry(A), B: entry(B, 40)}  # A right; B right at S1 alone; C missed; N rightly left out
SECOND = {B: entry(B), C: entry(D), N: entry(A)}  # A missed; B right; C still wrong; N declared


def compare(a, b, truth=TRUTH, bootstrap=None, **settings):
    return compare_scores(score(a, truth, **settings), score(b, truth, **settings), bootstrap)


def test_which_videos_changed():
    answer = compare(FIRST, SECOND)
    assert answer["changed"] == {
        "S1": {"to_wrong": [A, N], "to_right": []},
        "S2": {"to_wrong": [A, N], "to_right": [B]},
        "S3": {"to_wrong": [A, N], "to_right": [B]},
    }
    back = compare(SECOND, FIRST)["changed"]
    assert back["S3"] == {"to_wrong": [B], "to_right": [A, N]}
    assert [row["video_id"] for row in answer["videos"]] == [A, B, N]
    assert answer["videos"][0] == {
        "video_id": A,
        "kind": "P",
        "expected": A,
        "a": {"item_id": A, "S1": True, "S2": True, "S3": True, "why": "right"},
        "b": {"item_id": None, "S1": False, "S2": False, "S3": False, "why": "left out, though its item is in the catalogue"},
    }  # fmt: skip


def test_both_scores_and_the_difference():
    """a: 2, 1, 1 hits of 2 declared and 3 to be found; b: 1, 1, 1 of 3 and 3."""
    answer = compare(FIRST, SECOND)
    assert answer["a"]["S1"] == pytest.approx(4 / 5) and answer["b"]["S1"] == pytest.approx(2 / 6)
    assert answer["difference"]["S1"] == pytest.approx(1 / 3 - 4 / 5)
    assert answer["difference"]["S2"] == pytest.approx(1 / 3 - 2 / 5)
    assert "per_video" not in answer["a"] and "interval" not in answer
    kinds = answer["by_kind"]
    assert sorted(kinds) == ["M", "N", "P"]  # D has no video
    assert kinds["P"]["difference"]["S1"] == pytest.approx(2 / 3 - 1) and kinds["N"]["difference"]["S1"] is None


def test_intervals_of_the_difference():
    videos = {f"01{k:04d}": {0: VIDEOS[A][0]} for k in range(60)}
    photos = {(video, "0"): PHOTOS[A, "0"] for video in videos}
    for of in (videos, photos):
        for key in of:
            video = key if isinstance(key, str) else key[0]
            shown = [(int(f"2{video[1:]}01"), video, (0, 0, 100, 100))]
            of[key] = {0: shown} if isinstance(key, str) else shown
    truth = truth_of(photos, videos)
    ids = sorted(videos)
    worse, better = {video: entry(video) for video in ids[:20]}, {video: entry(video) for video in ids[:50]}
    answer = compare(worse, better, truth, Bootstrap(1000, 0.95, 0), resamples=1000)
    low, high = answer["interval"]["S1"]
    assert 0 < low < answer["difference"]["S1"] < high  # 50 of 60 are better than 20 of 60 beyond doubt
    assert len(answer["changed"]["S3"]["to_right"]) == 30
    same = compare(worse, worse, truth, Bootstrap(1000, 0.95, 0), resamples=1000)
    assert same["interval"]["final"] == [0, 0] and same["videos"] == []


def test_a_video_that_the_data_does_not_have():
    """It is wrong where it is declared, and rightly left out where it is not."""
    answer = compare({}, {"019999": entry(A)}, truth_of(PHOTOS, VIDEOS, {**KINDS, "019999": "P"}))
    assert answer["changed"]["S1"] == {"to_wrong": ["019999"], "to_right": []}
    assert answer["videos"][0]["a"]["why"] == "rightly left out"
    assert answer["by_kind"]["P"]["difference"]["S1"] == 0


def test_the_table():
    lines = compare_table(
        compare(FIRST, SECOND, bootstrap=Bootstrap(100, 0.9, 0), resamples=100, confidence=0.9)
    ).splitlines()
    assert "90% intervals from 100 resamples" in lines[0]
    assert [line.split()[:5] for line in lines if line.startswith("all")][0] == [
        "all",
        "S1",
        "0.800",
        "0.333",
        "-0.467",
    ]
    assert not any(line.startswith("N ") for line in lines)
    assert f"S1 right to wrong: 2 {A} {N}" in lines and "S1 wrong to right: 0" in lines
    bare = compare_table(compare(FIRST, SECOND)).splitlines()
    assert "intervals" not in bare[0] and [line.split()[-1] for line in bare if line.startswith("all")][0] == "-0.467"


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, result in (("a", {A: entry(A, 50)}), ("b", {A: entry("010002", 50)})):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(result))
    return paths


def test_entry(data, files, capsys):
    main(["--data", str(data), "--compare", *map(str, files), "score.resamples=50"])
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["changed"]["S3"]["to_wrong"] == [A] and answer["difference"]["final"] == pytest.approx(-1)
    assert answer["a"]["result"] == str(files[0]) and answer["b"]["result"] == str(files[1])
    assert f"b: {files[1]}" in printed.err and f"S3 right to wrong: 1 {A}" in printed.err
    out = data.parent / "compared.json"
    main(["--data", str(data), "--compare", *map(str, files), "--out", str(out), "score.resamples=0"])
    assert capsys.readouterr().out == "" and "interval" not in json.loads(out.read_text())


def test_entry_refuses(data, files):
    with pytest.raises(UserError, match="--compare names both results"):
        main(["--data", str(data), "--compare", *map(str, files), "--result", str(files[0])])
    with pytest.raises(UserError, match="missing.json: cannot be read"):
        main(["--data", str(data), "--compare", str(files[0]), str(data / "missing.json")])
    files[1].write_text(json.dumps({"099999": entry(A)}))
    with pytest.raises(UserError, match="b.json: none of its videos"):
        main(["--data", str(data), "--compare", *map(str, files)])
