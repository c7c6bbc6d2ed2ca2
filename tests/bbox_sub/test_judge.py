"""The entry of `run.sh evaluate`: what it leaves, what it reuses, what it refuses. The detector here finds products by their light."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

import bbox_sub.found
import bbox_sub.judge
from bbox_sub.detector import build_detector
from shared.config import dump_config
from shared.errors import UserError
from shared.weights import save_weights
from tests.bbox_sub.test_evaluate import ProductFinder


@pytest.fixture
def options(tiny_data, tiny_config, tmp_path, monkeypatch):
    """The arguments of the entry; the weights folder holds a real network, in whose place ProductFinder looks."""
    config = tiny_config.model_copy(
        update={"detect": tiny_config.detect.model_copy(update={"photo_score": 0.5, "video_score": 0.95})}
    )
    weights = tmp_path / "weights"
    net = build_detector(config.detector, load_pretrained=False)
    save_weights(weights / "detector", net, {"kind": "detector", "architecture": config.detector.model_dump()})
    (weights / "config.yaml").write_text(dump_config(config))
    loaded = []

    def load(folder, *, least_score, **chosen):
        loaded.append(least_score)
        return ProductFinder().eval(), config.detector

    monkeypatch.setattr(bbox_sub.found, "load_detector", load)
    arguments = ["--data", str(tiny_data), "--weights", str(weights), "--work", str(tmp_path / "work")]
    return arguments, tmp_path / "work" / "evaluation", loaded


def read(path):
    return json.loads(path.read_text())


def test_figures_sweep_and_sheets(options, capsys):
    arguments, folder, loaded = options
    bbox_sub.judge.main(arguments)
    printed = capsys.readouterr()
    assert printed.out == "" and "precision" in printed.err and "video_score" in printed.err
    figures = read(folder / "detector.json")
    # Every photo 0 and every frame shows its product alone. The four photos 1 show a distractor too, and there one box is
    # drawn around both, which has an IoU of 0.55 with the product's.
    photos, frames = figures["photos"], figures["frames"]
    assert (photos["pictures"], photos["boxes"], photos["found"], photos["hits"]) == (8, 12, 8, 8)
    assert (photos["precision"], photos["recall"]) == (1, pytest.approx(8 / 12))
    assert (frames["pictures"], frames["boxes"], frames["found"], frames["recall"]) == (9, 9, 0, 0)  # 0.9 < 0.95
    assert frames["AP50"] == pytest.approx(1)
    assert figures["all"]["boxes"] == 21 and set(figures["all"]["by_label"]) == {"top", "skirt"}
    assert figures["parts"] == ["train", "validation"] and figures["thresholds"] == {"photos": 0.5, "frames": 0.95}
    sweep = read(folder / "thresholds.json")
    assert sweep["proposed"] == {"photo_score": 0.05, "video_score": 0.05}
    assert yaml.safe_load(sweep["yaml"]) == {"detect": sweep["proposed"]}
    assert sweep["words"][0] == "photos: photo_score 0.05 gives precision 1.000, recall 0.667"
    assert sweep["photos"]["precision"][-1] is None
    assert {len(sweep["frames"][name]) for name in ("score", "found", "precision", "recall", "f1")} == {191}
    for name in ("thresholds", "misses", "false_alarms"):
        assert np.array(Image.open(folder / f"{name}.png")).std() > 0
    assert loaded == [0.05]


def test_another_threshold_needs_no_second_look_at_the_pictures(options, caplog):
    arguments, folder, loaded = options
    bbox_sub.judge.main(arguments)
    bbox_sub.judge.main([*arguments, "detect.video_score=0.5"])
    assert len(loaded) == 1 and read(folder / "detector.json")["frames"]["recall"] == 1
    bbox_sub.judge.main([*arguments, "detect.video_short_side=100"])
    assert len(loaded) == 2


def test_a_threshold_under_the_least_score_lowers_that(options):
    arguments, folder, loaded = options
    bbox_sub.judge.main([*arguments, "detect.photo_score=0.01"])
    assert loaded == [0.01] and read(folder / "thresholds.json")["photos"]["score"][0] == 0.01


def test_parts_by_name(options):
    arguments, folder, _ = options
    bbox_sub.judge.main([*arguments, "--part", "validation"])
    figures = read(folder / "detector.json")
    assert figures["parts"] == ["validation"] and figures["all"]["pictures"] == 7
    bbox_sub.judge.main([*arguments, "--part", "validation", "--part=train"])
    assert read(folder / "detector.json")["all"]["pictures"] == 17


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--part", "test"], "--part: .* has no part 'test'; it has train, validation"),
        (["--precision", "1.5"], "--precision: expected a share above 0 and up to 1, found 1.5"),
        (["--precision", "0"], "--precision"),
        (["--precision", "nan"], "--precision"),
        (["detector.pyramid_channels=32"], "trained with pyramid_channels 16"),
        (["detect.photo_scor=1"], "did you mean 'photo_score'"),
    ],
)
def test_mistakes_are_told_in_words(options, more, words):
    arguments, folder, loaded = options
    with pytest.raises(UserError, match=words):
        bbox_sub.judge.main([*arguments, *more])
    assert not loaded and not (folder / "detector.json").exists()


def test_on_a_coco_file(options, tiny_data):
    arguments, folder, _ = options
    root = tiny_data / "train" / "image" / "000000"
    (root / "coco.json").write_text(
        json.dumps(
            {
                "images": [{"id": 3, "file_name": "0.jpg"}, {"id": 4, "file_name": "1.jpg"}],
                "categories": [{"id": 1, "name": "top"}],
                "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [10, 8, 38, 52]}],
            }
        )
    )
    bbox_sub.judge.main([*arguments[2:], "--data", str(root / "coco.json")])
    figures = read(folder / "detector.json")
    assert "frames" not in figures and figures["photos"]["hits"] == 1 and figures["photos"]["precision"] == 1 / 2
    sweep = read(folder / "thresholds.json")
    assert sweep["proposed"] == {"photo_score": None, "video_score": None} and sweep["yaml"] == ""
    assert "photos: precision 0.9 cannot be reached" in sweep["words"][0]
    assert sweep["words"][1] == "frames: none is labelled, so none is judged"
