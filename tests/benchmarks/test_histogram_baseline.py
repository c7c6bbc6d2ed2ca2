"""The colour baseline: on items told apart by colour it is right."""

import json

import av
import cv2
import numpy as np
import pytest

from benchmarks.histogram_baseline import score_histograms
from shared.config import load_config
from shared.errors import UserError

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 30), (20, 30, 210)


def plain(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def boxes_of(*annotations):
    return [{"label": "x", "instance_id": instance, "box": box} for instance, box in annotations]


@pytest.fixture
def data(tmp_path):
    """Two items by colour; each video shows its item beside a green distractor at frame 80."""
    for item, colour in (("010001", RED), ("010002", BLUE)):
        instance = int(f"2{item[1:]}01")
        for folder in (f"image/{item}", f"image_annotation/{item}", "video", "video_annotation"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"image/{item}/0.png"), plain(colour)[:, :, ::-1])
        annotation = {"annotations": boxes_of((instance, [0, 0, 61, 40]))}  # overruns by a pixel, as the real ones may
        (tmp_path / f"image_annotation/{item}/0.json").write_text(json.dumps(annotation))
        frame = np.concatenate([plain(colour, 64, 64), plain(GREEN, 64, 64)], axis=1)
        with av.open(tmp_path / f"video/{item}.mp4", "w") as container:
            stream = container.add_stream("mpeg4", rate=25, width=128, height=64, pix_fmt="yuv420p", bit_rate=4_000_000)
            for _ in range(81):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode(None))
        frames = [{"frame_index": 80, "annotations": boxes_of((0, [64, 0, 128, 64]), (instance, [0, 0, 64, 64]))}]
        (tmp_path / f"video_annotation/{item}.json").write_text(json.dumps({"frames": frames}))
    return tmp_path


def test_finds_items_by_their_colour(data):
    answer = score_histograms(data, load_config("configs/cpu.yaml"))
    assert (answer["S1"], answer["S2"], answer["S3"], answer["N_GT"]) == (1, 1, 1, 2)


def test_the_cut_off_of_embeddings_is_not_for_histograms(data):
    picture = plain(RED)
    picture[:, 30:] = 120  # half of it: sqrt(2 - sqrt(2)) = 0.77 from its video
    cv2.imwrite(str(data / "image/010001/0.png"), picture[:, :, ::-1])
    answer = score_histograms(data, load_config("configs/cpu.yaml", ["match.max_distance=0.5"]))
    assert answer["N_P"] == 2 and answer["S1"] == 1


def test_a_video_that_cannot_be_read_is_left_out(data):
    (data / "video/010002.mp4").write_bytes(b"no video")
    answer = score_histograms(data, load_config("configs/cpu.yaml"))
    assert (answer["N_P"], answer["TP"]["S1"]) == (1, 1)


def test_refuses_data_without_labels(data):
    for file in data.glob("*_annotation/**/*.json"):
        file.unlink()
    with pytest.raises(UserError, match="no labelled box"):
        score_histograms(data, load_config("configs/cpu.yaml"))
