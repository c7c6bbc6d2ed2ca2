"""Calibration on a work folder whose matches, distances and faults are known beforehand."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from metric_sub.calibrate import Boxes, Matcher, fragment_of, main, overrides_of, read_boxes
from metric_sub.infer import match_boxes
from metric_sub.settings import Settings
from shared.config import Calibration, dump_config, load_config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.work import Step
from tests.limits import LIMITS

LABEL = {"label": "dress", "viewpoint": 0, "display": 1, "box": [0, 0, 100, 100]}

# What the nearest video box of each item's only photo is: item -> (video, distance). An item is right in its own video.
# 010007 and 010008 are only in the catalogue; 010011 and 010012 show no item; 010006 has a video, but looks like another.
NEAREST = {
    "010001": ("010001", 0.2),
    "010002": ("010002", 0.3),
    "010003": ("010003", 0.5),
    "010004": ("010004", 0.7),
    "010005": ("010005", 0.9),
    "010006": ("010011", 0.8),
    "010007": ("010012", 1.0),
    "010008": ("010006", 1.1),
}
VIDEOS = ["010001", "010002", "010003", "010004", "010005", "010006", "010011", "010012"]
SHOWN = VIDEOS[:6]
# F1 = 2 hits / (declared + 6) at each distance: 2/7 4/8 6/9 8/10 | 0.8: 8/11 | 0.9: 10/12 | 1.0: 10/13 | 1.1: 10/14
BEST = {"max_distance": 0.95, "S1": 10 / 12, "precision": 5 / 6}


class World:
    """Boxes with vectors at wanted distances: every photo has an axis of its own, and so has every video box."""

    def __init__(self):
        self.photos, self.videos = [], []  # (item, name, score, vector), (video, score, vector)
        self._axes = 0

    def photo(self, item, name, near, score=0.99):
        """A photo box, and for each of near, [(video, distance, score)], a video box that it is nearest to."""
        axis = self._axis()
        self.photos.append((item, name, score, axis))
        for video, distance, video_score in near:
            cosine = 1 - distance**2 / 2
            self.videos.append((video, video_score, cosine * axis + np.sqrt(1 - cosine**2) * self._axis()))

    def _axis(self):
        self._axes += 1
        return np.eye(64)[self._axes - 1]

    def write(self, root, config):
        """The data set (files without content, and annotations) and the work folder as infer leaves it."""
        data, work = root / "data", root / "work"
        files = {f"image/{item}/{name}.jpg": None for item, name, *_ in self.photos}
        files |= {f"video/{video}.mp4": None for video in VIDEOS}
        for item, name, *_ in self.photos:
            shown = {"item_id": item, "img_name": f"{name}.jpg", "annotations": [product(item)]}
            files[f"image_annotation/{item}/{name}.json"] = shown
        for video in VIDEOS:
            boxes = [product(video)] if video in SHOWN else []
            frames = [{"frame_index": 80, "annotations": boxes}]
            files[f"video_annotation/{video}.json"] = {"video_id": video, "frames": frames}
        for name, content in files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(json.dumps(content) if content else "")
        media = read_dataset(data, LIMITS).media
        Step(work / "media", {}).write({"table": media})
        of_photos = [(f"image/{i}/{n}.jpg", i, n, 0, s) for i, n, s, _ in self.photos]
        of_videos = [(f"video/{v}.mp4", v, v, 80, s) for v, s, _ in self.videos]
        for kind, rows, vectors, depends in (
            (
                "photos",
                of_photos,
                [row[-1] for row in self.photos],
                {"score": config.detect.photo_score, "keep_best": config.detect.keep_best_photo_box},
            ),
            ("videos", of_videos, [row[-1] for row in self.videos], {"score": config.detect.video_score}),
        ):
            table = pd.DataFrame(rows, columns=["media_id", "item_id", "name", "frame_index", "score"])
            table = table.assign(x1=0, y1=0, x2=100, y2=100, category="product", score=table.score.astype("float32"))
            table["rank"] = table.groupby(["media_id", "frame_index"]).score.rank(ascending=False, method="first") - 1
            table = table.astype({**dict.fromkeys(["x1", "y1", "x2", "y2"], "float32"), "rank": "int64"})
            step = Step(work / "detections" / kind, depends)
            step.write({"table": table})
            embedded = Step(work / "embeddings" / kind, {"detections": step.fingerprint})
            embedded.write({"table": table})
            np.save(embedded.folder / "vectors.npy", np.float32(vectors))
        (root / "config.yaml").write_text(dump_config(config))
        return root


def product(item):
    return {**LABEL, "instance_id": int(f"2{item[1:]}01")}


@pytest.fixture
def config(tiny_config):
    detect = tiny_config.detect.model_copy(update={"photo_score": 0.3, "video_score": 0.3, "keep_best_photo_box": True})
    match = tiny_config.match.model_copy(update={"keep_quantile": 1.0, "min_share": 0.5, "max_distance": 1.12})
    score = tiny_config.score.model_copy(update={"resamples": 50})
    return tiny_config.model_copy(update={"detect": detect, "match": match, "score": score})


@pytest.fixture
def world():
    world = World()
    for item, (video, distance) in NEAREST.items():
        world.photo(item, "0", [(video, distance, 0.9)])
    return world


def run(root, *options):
    named = ["--config", root / "config.yaml", "--data", root / "data", "--work", root / "work"]
    main([*map(str, named), *map(str, options)])
    return json.loads((root / "work" / "calibration" / "calibration.json").read_text())


def test_the_best_f1_by_hand(world, config, tmp_path, capsys):
    answer = run(world.write(tmp_path, config))
    settings = {"video_score": 0.3, "photo_score": 0.3, "min_share": 0.5}
    assert answer["proposed"]["settings"] == {**settings, "max_distance": pytest.approx(BEST["max_distance"])}
    assert answer["now"]["settings"] == {**settings, "max_distance": 1.12}
    assert answer["proposed"]["S1"] == pytest.approx(BEST["S1"]) and answer["now"]["S1"] == pytest.approx(10 / 14)
    assert answer["proposed"]["precision"] == pytest.approx(BEST["precision"]) and answer["aim"] == "F1"
    assert answer["curve"]["max_distance"] == pytest.approx([0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1], abs=1e-5)
    assert answer["curve"]["F1"] == pytest.approx([2 / 7, 4 / 8, 6 / 9, 8 / 10, 8 / 11, 10 / 12, 10 / 13, 10 / 14])
    assert answer["tried"]["video_score"] == pytest.approx([0.3 + k / 20 for k in range(14)])
    printed = capsys.readouterr()
    assert printed.out == "" and "proposed" in printed.err
    assert (tmp_path / "work" / "calibration" / "calibration.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("precision", "max_distance", "figures"),
    [(1.0, 0.75, (1, 4 / 6)), (0.8, 0.95, (5 / 6, 5 / 6)), (0.7, 0.95, (5 / 6, 5 / 6))],
)
def test_a_wanted_precision(world, config, tmp_path, precision, max_distance, figures):
    answer = run(world.write(tmp_path, config), "--precision", precision)
    proposed = answer["proposed"]
    assert proposed["settings"]["max_distance"] == pytest.approx(max_distance) and proposed["precision"] >= precision
    assert (proposed["precision"], proposed["recall"]) == pytest.approx(figures)
    assert answer["aim"] == {"precision": precision}


def test_a_precision_out_of_reach(config, tmp_path):
    world = World()
    for item, (video, distance) in {
        "010001": ("010011", 0.1),
        "010002": ("010002", 0.3),
        "010003": ("010003", 0.5),
    }.items():
        world.photo(item, "0", [(video, distance, 0.9)])
    root = world.write(tmp_path, config)
    with pytest.raises(
        UserError, match=r"--precision 0.9: out of reach on these 3 videos .* the highest is 0.667, with 2 right"
    ):
        run(root, "--precision", 0.9)
    assert run(root, "--precision", 0.66)["proposed"]["precision"] == pytest.approx(2 / 3)


def test_a_higher_threshold_of_the_detector(world, config, tmp_path):
    """A weak box of a video without item is nearer to 010004 than its own video; over 0.4 it is gone."""
    world.photo("010004", "0", [("010012", 0.1, 0.4), ("010004", 0.7, 0.9)])
    del world.photos[3]  # the same photo is there without the weak box
    answer = run(world.write(tmp_path, config))
    assert answer["proposed"]["settings"]["video_score"] == pytest.approx(0.45)
    assert answer["proposed"]["settings"]["photo_score"] == 0.3
    assert answer["proposed"]["S1"] == pytest.approx(BEST["S1"]) and answer["now"]["S1"] < BEST["S1"]


def test_a_photo_keeps_its_best_box_if_the_config_says_so(world, config, tmp_path):
    root = world.write(tmp_path, config)
    boxes, _ = read_boxes(root / "data", root / "work", None, config)
    without, keeping = (Matcher(boxes, keep_best, config.match) for keep_best in (False, True))
    assert len(without.matches(Settings(0.3, 0.995, 0.5), 1.12)) == 0
    assert len(keeping.matches(Settings(0.3, 0.995, 0.5), 1.12)) == len(NEAREST)
    assert len(keeping.matches(Settings(0.95, 0.3, 0.5), 1.12)) == 0  # no video box is left


def test_a_smaller_share_of_votes(world, config, tmp_path):
    """A sixth item with three photos, each voting for another video: its own has a third of the votes and is the nearest."""
    del world.photos[5]
    world.photo("010006", "0", [("010006", 0.4, 0.9)])
    world.photo("010006", "1", [("010001", 0.6, 0.9)])
    world.photo("010006", "2", [("010002", 0.61, 0.9)])
    answer = run(world.write(tmp_path, config))
    assert answer["now"]["settings"]["min_share"] == 0.5
    assert answer["proposed"]["settings"]["min_share"] == 0.3  # of those that will do, the nearest to 0.5
    assert answer["proposed"]["TP"]["S1"] == 6


def test_the_fragment_gives_the_proposed_matches(world, config, tmp_path):
    """Merged into the config, or as overrides, it matches as calibrate says that it would, with probabilities."""
    root = world.write(tmp_path, config)
    answer = run(root)
    folder = root / "work" / "calibration"
    fragment = yaml.safe_load((folder / "calibration.yaml").read_text())
    assert fragment == fragment_of(answer)
    words = (folder / "overrides.txt").read_text().split()
    assert all(" " not in word for word in words) and len(words) == 5
    overridden = load_config(root / "config.yaml", words)
    tree = yaml.safe_load((root / "config.yaml").read_text())
    for section, values in fragment.items():
        tree[section] |= values
    (root / "merged.yaml").write_text(yaml.safe_dump(tree))
    assert overridden == load_config(root / "merged.yaml")
    boxes, _ = read_boxes(root / "data", root / "work", None, config)
    matches, _ = match_boxes(boxes.photos, boxes.photo_vectors, boxes.videos, boxes.video_vectors, overridden.match)
    assert len(matches) == 6 and matches.video_id.is_unique
    calibration = answer["probability"]
    by_hand = 1 / (
        1 + np.exp(-(calibration["intercept"] + calibration["slope"] * matches.distance.to_numpy(np.float64)))
    )
    assert matches.probability.tolist() == pytest.approx(by_hand.tolist())
    assert matches.sort_values("distance").probability.is_monotonic_decreasing
    plain, _ = match_boxes(boxes.photos, boxes.photo_vectors, boxes.videos, boxes.video_vectors, config.match)
    assert plain.probability.isna().all() and len(plain) == 8


def test_a_probability_of_none_is_null(config, tmp_path, capsys):
    world = World()
    for item in SHOWN[:3]:
        world.photo(item, "0", [(item, 0.3, 0.9)])
    root = world.write(tmp_path, config)
    answer = run(root, "--out", tmp_path / "mine.yaml")
    assert answer["probability"] is None and "no probability" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["match"]["calibration"] is None
    assert "match.calibration=null" in overrides_of(fragment_of(answer))
    assert not (root / "work" / "calibration" / "calibration.yaml").exists()


def test_what_is_refused(world, config, tmp_path):
    root = world.write(tmp_path, config)
    with pytest.raises(UserError, match="detections/videos: made with detect.video_score 0.3, the config says 0.2"):
        run(root, "detect.video_score=0.2")
    with pytest.raises(UserError, match="it has"):
        run(root, "--part", "elsewhere")
    with pytest.raises(UserError, match="Name another --out"):
        run(root, "--out", root / "nowhere" / "x.yaml")
    with pytest.raises(SystemExit):
        run(root, "--precision", 1.5)
    (root / "data" / "video" / "019999.mp4").touch()
    with pytest.raises(UserError, match="video/019999.mp4 is in only one of the data"):
        run(root)
    (root / "data" / "video" / "019999.mp4").unlink()
    for file in (root / "data" / "video_annotation").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="nothing to calibrate by: no video has a labelled item"):
        run(root)
    (root / "work" / "embeddings" / "videos" / "manifest.json").unlink()
    with pytest.raises(UserError, match="embeddings/videos: not finished.*bash run.sh infer"):
        run(root)


def test_no_match_is_right(config, tmp_path):
    world = World()
    world.photo("010001", "0", [("010011", 0.3, 0.9)])
    with pytest.raises(UserError, match="no match is right"):
        run(world.write(tmp_path, config))


def test_embeddings_of_other_detections(world, config, tmp_path):
    root = world.write(tmp_path, config)
    old = Step(root / "work" / "detections" / "videos", {"score": 0.3, "again": True})
    old.write({"table": pd.read_parquet(root / "work" / "embeddings" / "videos" / "table.parquet")})
    with pytest.raises(UserError, match="made from other detections"):
        run(root)


def random_boxes(rng, n_owners, n_boxes):
    """Boxes of some items or videos, two in a picture, by rising score, and their unit vectors."""
    owners = np.sort(rng.integers(0, n_owners, n_boxes)).astype(str)
    table = pd.DataFrame({"item_id": owners, "name": "0", "media_id": owners, "frame_index": 20, "category": "product"})
    table = table.assign(score=np.sort(rng.random(n_boxes).astype(np.float32)), x1=0.0, y1=0.0, x2=9.0, y2=9.0)
    table["rank"] = table.groupby("media_id").cumcount()
    vectors = rng.normal(size=(n_boxes, 4))
    return table, np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("rerank", ["none", "expansion", "reciprocal"])
def test_shared_neighbours_give_what_each_search_of_its_own_gives(config, rerank):
    """Against the whole rule on what a detector with those thresholds would have left, in any order of asking."""
    rng = np.random.default_rng(0)
    (photos, photo_vectors), (videos, video_vectors) = random_boxes(rng, 12, 40), random_boxes(rng, 15, 60)
    match = config.match.model_copy(update={"rerank": rerank, "neighbours": 3})
    matcher = Matcher(Boxes(photos, photo_vectors, videos, video_vectors), False, match)
    for _ in range(25):
        video_score, photo_score, share = (rng.choice([0.0, 0.3, 0.6]) for _ in range(3))
        chosen, seen = (photos.score >= photo_score).to_numpy(), (videos.score >= video_score).to_numpy()
        alone = match.model_copy(update={"min_share": share, "max_distance": 0.9})
        expected, _ = match_boxes(photos[chosen], photo_vectors[chosen], videos[seen], video_vectors[seen], alone)
        found = matcher.matches(Settings(video_score, photo_score, share), 0.9)
        pd.testing.assert_frame_equal(found, expected)
    assert len(expected)


def test_held_out_figures_are_of_every_video_once(world, config, tmp_path):
    """The cut-offs of the folds differ, so the figures do; what can be said of them beforehand holds."""
    answer = run(world.write(tmp_path, config))["held_out"]
    assert answer["folds"] == 5 and 0 <= answer["S1"] <= BEST["S1"] and answer["recall"] <= 5 / 6
    world = World()
    for item in SHOWN:
        world.photo(item, "0", [(item, 0.3, 0.9)])
    assert run(world.write(tmp_path / "right", config))["held_out"] == {
        "folds": 5,
        "S1": 1,
        "precision": 1,
        "recall": 1,
    }


def test_it_is_the_same_every_time(world, config, tmp_path):
    assert run(world.write(tmp_path, config)) == run(tmp_path)


def test_a_calibration_is_a_section_of_the_config(tmp_path, config):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    changed = load_config(path, ['match.calibration={"intercept":6,"slope":-8.5}'])
    assert changed.match.calibration == Calibration(intercept=6, slope=-8.5)
    with pytest.raises(UserError, match="match.calibration.slope"):
        load_config(path, ["match.calibration={intercept: 6}"])
