"""What the embedders learn from: which boxes are cut out, with how much around them, and when they are cut anew."""

import json

import numpy as np
import pandas as pd
import pytest

from metric_sub.training_crops import COLUMNS, crops_for, cut_training_crops, products_of
from shared.config import Config
from shared.dataset import read_dataset
from shared.frames import extract_labelled_frames, read_picture
from tests.drawing import COLOURS, LABELLED_FRAMES

N_PHOTOS, N_DISTRACTORS = 8, 4  # of tiny_data: four items of two photos; each photo 1 shows a distractor too
N_FRAMES = 3 * len(LABELLED_FRAMES)


def changed(config, tasks=("products",), jitters=(0.0,), **embed):
    """The config with a phase of each task, augmentations of these box jitters alone, and other values of `embed`."""
    tree = config.model_dump()
    train = tree["embed_train"]
    off = dict.fromkeys(next(iter(train["augment"].values())), 0.0)
    train["augment"] = {f"a{k}": off | {"box_jitter": jitter} for k, jitter in enumerate(jitters)}
    train["phases"] = [train["phases"][0] | {"share": 1 / len(tasks), "task": task, "augment": "a0"} for task in tasks]
    tree["embed"] |= {"crop_margin": 0.0} | embed
    return Config.model_validate(tree)


def cut(data, config, work):
    dataset = read_dataset(data)
    pictures = extract_labelled_frames(dataset, work, config.data, fresh=False)
    return cut_training_crops(dataset, pictures, config, work, fresh=False)


def test_a_crop_for_each_box_of_a_product(tiny_data, tiny_config, tmp_path):
    crops = cut(tiny_data, changed(tiny_config), tmp_path)
    assert crops.columns.tolist() == COLUMNS
    assert crops.kind.value_counts().to_dict() == {"photo": N_PHOTOS, "video": N_FRAMES}
    assert set(crops["product"]) == {20000001, 20000101, 20000201, 20000301}
    for row in crops.itertuples():
        image = read_picture(row.crop, 10**6)
        x1, y1, x2, y2 = np.rint([row.x1, row.y1, row.x2, row.y2]).astype(int)
        assert 0 <= x1 < x2 <= image.shape[1] and 0 <= y1 < y2 <= image.shape[0]
        inside = np.median(image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].reshape(-1, 3), axis=0)
        assert np.abs(inside - COLOURS[row.product_id]).max() < 30
        assert 100 < row.chroma < np.ptp(inside) + 5  # a strong colour with a grey pattern on it


def test_frames_that_are_not_asked_for_are_left_out(tiny_data, tiny_config, tmp_path):
    config = changed(tiny_config)
    frames = config.embed_train.frames.model_copy(update={"start": 8, "stop": 8})
    config = config.model_copy(update={"embed_train": config.embed_train.model_copy(update={"frames": frames})})
    crops = cut(tiny_data, config, tmp_path)
    assert set(crops[crops.kind == "video"].frame_index) == {8} and (crops.kind == "photo").sum() == N_PHOTOS
    assert len(products_of(read_dataset(tiny_data), config)) == N_PHOTOS + 3


def test_distractors_that_are_followed_are_cut_out_where_a_model_wants_them(tiny_data, tiny_config, tmp_path):
    expected = {}
    for number, path in enumerate(sorted(tiny_data.rglob("video_annotation/*.json"))[:2]):
        video = json.loads(path.read_text(encoding="utf-8"))
        for k, frame in enumerate(video["frames"]):
            distractor = {"label": "bag", "viewpoint": 0, "display": 0, "instance_id": 0, "box": [2 + k, 2, 26 + k, 24]}
            frame["annotations"].append(distractor)
        path.write_text(json.dumps(video), encoding="utf-8")
        expected[-1 - number] = [frame["frame_index"] for frame in video["frames"]]
    config = changed(tiny_config)
    assert (cut(tiny_data, config, tmp_path)["product"] > 0).all()
    tree = config.model_dump()
    tree["embedders"][1]["train"] = {"distractor_tracks": True}  # one of the models is enough
    crops = cut(tiny_data, Config.model_validate(tree), tmp_path)
    followed = crops[crops["product"] < 0]
    assert followed.groupby("product").frame_index.apply(list).to_dict() == expected
    assert (followed.kind == "video").all() and followed.groupby("product").media_id.nunique().eq(1).all()
    assert len(crops[crops["product"] > 0]) == N_PHOTOS + N_FRAMES and not (crops["product"] == 0).any()


@pytest.mark.parametrize(
    ("tasks", "tracks", "rows"),
    [
        (("products",), False, [0, 3]),
        (("products",), True, [0, 1, 3, 5]),
        (("views", "products"), False, [0, 1, 2, 3, 4, 5]),
        (("views", "products"), True, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_model_sees_what_it_asks_for_whatever_the_others_do(tiny_config, tasks, tracks, rows):
    crops = pd.DataFrame({"product": [20000001, -1, 0, 20000101, 0, -1], "row": range(6)})
    settings = changed(tiny_config, tasks).embed_train.model_copy(update={"distractor_tracks": tracks})
    seen = crops_for(crops, settings)
    assert seen.row.tolist() == rows and seen.index.tolist() == list(range(len(rows)))


def test_views_are_of_distractors_too_and_the_step_knows(tiny_data, tiny_config, tmp_path):
    depends = []
    for tasks, n_distractors in ((("products",), 0), (("views", "products"), N_DISTRACTORS), (("products",), 0)):
        crops = cut(tiny_data, changed(tiny_config, tasks), tmp_path)
        assert len(crops) == N_PHOTOS + N_FRAMES + n_distractors
        others = crops[crops["product"] == 0]
        assert len(others) == n_distractors and set(others.kind) <= {"photo"} and set(others.product_id) <= {""}
        for row in others.itertuples():
            assert np.abs(np.median(read_picture(row.crop, 10**6), axis=(0, 1)) - 150).max() < 10
        depends.append(json.loads((tmp_path / "crops" / "manifest.json").read_text())["depends"])
    assert depends[0] == depends[2] != depends[1]
    assert len(products_of(read_dataset(tiny_data), changed(tiny_config, ("views",)))) == N_PHOTOS + N_FRAMES


@pytest.mark.parametrize(("margin", "jitters"), [(0.0, (0.1, 0.25)), (0.1, (0.2, 0.0))])
def test_there_is_room_for_the_margin_and_the_largest_jitter(tiny_data, tiny_config, tmp_path, margin, jitters):
    """A photo's product stands at 10, 8, 48, 60 in 64 x 96 pixels: the crop ends with the picture or with the room."""
    crops = cut(tiny_data, changed(tiny_config, jitters=jitters, crop_margin=margin), tmp_path)
    room = margin + (1 + 2 * margin) * max(jitters)
    for row in crops[(crops.kind == "photo") & (crops["product"] > 0)].itertuples():
        height, width = read_picture(row.crop, 10**6).shape[:2]
        left, top = min(10, room * 38), min(8, room * 52)
        right, bottom = min(64 - 48, room * 38), min(96 - 60, room * 52)
        assert [row.x1, row.y1, width - row.x2, height - row.y2] == pytest.approx([left, top, right, bottom], abs=0.51)


def test_without_a_product_there_are_distractors_or_nothing(tiny_data, tiny_config, tmp_path):
    for path in tiny_data.glob("*/*_annotation/**/*.json"):
        tree = json.loads(path.read_text())
        for each in tree["annotations"] if "annotations" in tree else tree["frames"]:
            for annotation in [each] if "box" in each else each["annotations"]:
                annotation["instance_id"] = 0
        path.write_text(json.dumps(tree))
    crops = cut(tiny_data, changed(tiny_config, ("views", "products")), tmp_path)
    assert len(crops) == N_PHOTOS + N_FRAMES + N_DISTRACTORS and set(crops["product"]) == {0}
    nothing = cut(tiny_data, changed(tiny_config), tmp_path)
    assert nothing.empty and nothing.columns.tolist() == COLUMNS
