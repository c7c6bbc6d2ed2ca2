"""The plain way that `bench pipeline` compares with comes to our result, with all that the configs may switch on."""

import json

import pytest

import infer
from benchmarks import _plain_pipeline
from shared.config import dump_config
from tests.drawn_networks import write_detector, write_embedder

SWITCHED_ON = {
    "detect": {"photo_score": 0.5, "video_score": 0.5, "vote_iou": 0.6},
    "descriptors": {"gradient_histogram": 1.0, "colour_histogram": 0.5, "fine_colour_histogram": 0.5, "whitening": None},
    "embed": {"flip": True},
    "match": {"neighbours": 3, "vote_weight": "distance", "assignment": "optimal", "min_share": 0.1, "max_distance": 2.0},
}


@pytest.mark.parametrize("switched_on", [SWITCHED_ON, {"match": {"max_distance": 2.0}}], ids=["all", "the plain rule"])
def test_the_plain_way_finds_what_we_find(plain_data, tiny_config, tmp_path, switched_on):
    sections = {name: getattr(tiny_config, name).model_copy(update=keys) for name, keys in switched_on.items()}
    config = tiny_config.model_copy(update=sections)
    weights = tmp_path / "weights"
    write_detector(weights / "detector", categories=["product"])
    for model in config.embedders:
        write_embedder(weights / model.name, config.model_copy(update={"embedders": [model]}))
    (weights / "config.yaml").write_text(dump_config(config))
    arguments = ["--data", str(plain_data), "--weights", str(weights)]
    infer.main([*arguments, "--work", str(tmp_path / "work")])
    _plain_pipeline.main([*arguments, "--out", str(tmp_path / "plain.json")])
    ours, plain = (json.loads(path.read_text()) for path in (tmp_path / "work" / "result.json", tmp_path / "plain.json"))
    assert ours and ours.keys() == plain.keys()
    for video, found in ours.items():
        assert [found[key] for key in ("item_id", "frame_index")] == [plain[video][key] for key in ("item_id", "frame_index")]
        for own, other in zip(found["result"], plain[video]["result"], strict=True):
            assert own["img_name"] == other["img_name"]
            for box in ("item_box", "frame_box"):
                assert own[box] == pytest.approx(other[box], abs=0.05)
