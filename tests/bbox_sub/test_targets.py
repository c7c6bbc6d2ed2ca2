"""What the detector learns from: boxes stay on their products through resizing and mirroring; batches go by seed and step."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bbox_sub.targets import (
    GREY,
    DetectorBatches,
    LabelledPicture,
    count_boxes,
    fit_boxes,
    labelled_pictures,
    place_on_canvas,
)
from bbox_sub.train import pictures_of, warn_of_paste
from shared.config import Config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.frames import write_jpeg
from tests.limits import LIMITS


def changed(config, batch_size=None, **keys):
    """The config with other values of detector_train, and another batch size in each phase."""
    tree = config.model_dump()
    tree["detector_train"].update(keys)
    for phase in tree["detector_train"]["phases"]:
        phase["batch_size"] = batch_size or phase["batch_size"]
    return Config.model_validate(tree)


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns)


PICTURES = table([("a", 0, "a.jpg"), ("v", 8, "v8.jpg"), ("v", 0, "v0.jpg")], ["media_id", "frame_index", "picture"])
LABELS = table(
    [
        ("a", 0, "top", 1, 2, 3, 4),
        ("v", 8, "skirt", 5, 6, 7, 8),
        ("a", 0, "Top", 9, 10, 11, 12),
        ("other", 0, "top", 0, 0, 1, 1),
    ],
    ["media_id", "frame_index", "label", "x1", "y1", "x2", "y2"],
)


def test_boxes_go_to_their_pictures_in_the_pictures_order():
    found = labelled_pictures(PICTURES, LABELS, ["product"], {})
    assert [picture.picture for picture in found] == ["a.jpg", "v8.jpg", "v0.jpg"]
    assert [picture.boxes_xyxy.tolist() for picture in found] == [[[1, 2, 3, 4], [9, 10, 11, 12]], [[5, 6, 7, 8]], []]
    assert [picture.labels.tolist() for picture in found] == [[1, 1], [1], []]
    assert (
        found[2].boxes_xyxy.shape == (0, 4)
        and found[0].boxes_xyxy.dtype == np.float32
        and found[0].labels.dtype == np.int64
    )


def test_several_categories_are_numbered_from_1_by_label_or_alias():
    found = labelled_pictures(PICTURES, LABELS, ["skirt", "top"], {"Top": "top"})
    assert [picture.labels.tolist() for picture in found] == [[2, 2], [1], []]


def test_labels_without_a_category_are_named():
    with pytest.raises(UserError, match=r"detector.categories.*\['Top'\]"):
        labelled_pictures(PICTURES, LABELS, ["skirt", "top"], {})


def test_no_labels_at_all_make_pictures_without_boxes():
    assert [len(picture.labels) for picture in labelled_pictures(PICTURES, LABELS.iloc[:0], ["product"], {})] == [
        0,
        0,
        0,
    ]


def test_boxes_are_clipped_and_slivers_left_out():
    boxes = np.float32([[-5, -5, 20, 20], [9.5, 0, 30, 5], [0, 0, 10, 8], [50, 50, 60, 60], [2, 2, 3, 3]])
    kept, labels = fit_boxes(boxes, np.array([1, 2, 3, 4, 5]), 10, 8)
    assert kept.tolist() == [[0, 0, 10, 8], [0, 0, 10, 8], [2, 2, 3, 3]] and labels.tolist() == [1, 3, 5]


@pytest.fixture
def drawn(tmp_path):
    """Nine pictures of differing sizes, each with one white box on black, and one without."""
    rng, pictures = np.random.default_rng(0), []
    for k in range(10):
        height, width = int(rng.integers(60, 120)), int(rng.integers(60, 120))
        image = np.zeros((height, width, 3), np.uint8)
        x1, y1 = int(rng.integers(4, 25)), int(rng.integers(4, 25))
        box = x1, y1, x1 + int(rng.integers(12, 30)), y1 + int(rng.integers(12, 30))
        if k < 9:
            image[box[1] : box[3], box[0] : box[2]] = 255
        write_jpeg(tmp_path / f"{k}.jpg", image)
        n_boxes = int(k < 9)
        pictures.append(LabelledPicture(str(tmp_path / f"{k}.jpg"), np.float32([box])[:n_boxes], np.full(n_boxes, 1)))
    return pictures


@pytest.fixture
def photo(tmp_path):
    """A red product, of category 5, on white paper."""
    image = np.full((100, 80, 3), 255, np.uint8)
    image[20:80, 20:60] = 220, 20, 20
    write_jpeg(tmp_path / "photo.jpg", image)
    return LabelledPicture(str(tmp_path / "photo.jpg"), np.float32([[20, 20, 60, 80]]), np.array([5]), is_photo=True)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_lie_on_what_they_mark(drawn, tiny_config, flip):
    batches = DetectorBatches(drawn, changed(tiny_config, flip=flip, colour_jitter=0.0, zoom=1.0, batch_size=5))
    seen = 0
    for step in range(2):
        images, targets, canvas_hw = batches[step]
        assert canvas_hw == tuple(np.max([image.shape[1:] for image in images], axis=0))
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.float32 and 0 <= image.min() and image.max() <= 1
            assert target["boxes"].shape == (len(target["labels"]), 4) and target["boxes"].dtype == torch.float32
            if not len(target["labels"]):
                assert image.max() < 0.2
                continue
            seen += 1
            rows, columns = np.nonzero(image[0].numpy() > 0.5)
            bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(target["boxes"][0].numpy() - bright).max() <= 1.5
    assert seen == 9


@settings(max_examples=60)
@given(st.tuples(*[st.integers(4, 40)] * 4), st.integers(0, 10**6))
def test_a_canvas_shows_a_window_of_the_picture_or_all_of_it(sizes, seed):
    """Each pixel carries its own place, so that the canvas tells which pixel of the picture stands where."""
    rng = np.random.default_rng(seed)
    (height, width), size_hw = sizes[:2], sizes[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([y, x, torch.full_like(y, 255)]).to(torch.uint8)
    corners = rng.uniform(0, 1, (3, 2)) * (width - 2, height - 2)
    boxes = np.concatenate([corners, corners + 2], axis=1).astype(np.float32)
    canvas, placed, labels = place_on_canvas(image, boxes, np.array([1, 2, 3]), size_hw, rng)
    shown = canvas[2] == 255
    assert canvas.shape == (3, *size_hw) and bool((canvas[:, ~shown] == GREY).all())
    rows, columns = np.nonzero(shown.numpy())
    top, left = rows[0] - int(canvas[0][shown][0]), columns[0] - int(canvas[1][shown][0])
    assert (canvas[0][shown].numpy() == rows - top).all() and (canvas[1][shown].numpy() == columns - left).all()
    assert len(rows) == min(height, size_hw[0]) * min(width, size_hw[1])  # nothing is lost that has room
    for box, label in zip(boxes, (1, 2, 3), strict=True):
        moved = box + (left, top, left, top)
        inside = np.clip(moved, 0, np.tile(size_hw[::-1], 2))
        share = max(0, inside[2] - inside[0]) * max(0, inside[3] - inside[1]) / 4
        assert (label in labels) == (share >= 0.3) or abs(share - 0.3) < 1e-4
        if label in labels:
            assert placed[labels.tolist().index(label)] == pytest.approx(inside, abs=1e-4)


def test_zoom_changes_sizes_within_its_factor(drawn, tiny_config):
    one = [picture for picture in drawn if len(picture.labels)][:1]
    sides = {}
    for zoom in (1.0, 2.0):
        batches = DetectorBatches(
            one,
            changed(
                tiny_config,
                zoom=zoom,
                flip=0.0,
                batch_size=4,
                phases=[{"iterations": 8, "short_sides": [64], "learning_rate": 0.1, "batch_size": 4, "start": "last"}],
            ),
        )
        targets = [target["boxes"] for step in range(8) for target in batches[step][1]]
        sides[zoom] = np.array([(boxes[0, 3] - boxes[0, 1]).item() for boxes in targets if len(boxes)])
    assert np.ptp(sides[1.0]) < 0.01
    assert sides[2.0].min() < 0.75 * sides[1.0][0] and 1.3 * sides[1.0][0] < sides[2.0].max() < 2.05 * sides[1.0][0]


def test_mirroring_is_mirroring(drawn, tiny_config):
    plain, mirrored = (
        DetectorBatches(drawn, changed(tiny_config, flip=flip, colour_jitter=0.0)) for flip in (0.0, 1.0)
    )
    for image, other in zip(plain[3][0], mirrored[3][0], strict=True):
        assert torch.equal(image, other.flip(-1))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True)) and all(
        torch.equal(x[key], y[key]) for x, y in zip(a[1], b[1], strict=True) for key in x
    )


def test_a_batch_depends_on_seed_and_step_alone(drawn, photo, tiny_config):
    config = changed(tiny_config, colour_jitter=1.0, paste=1.0)
    pictures = [*drawn, photo]
    batches = DetectorBatches(pictures, config)
    torch.manual_seed(0)
    first = [batches[step] for step in range(6)]
    torch.manual_seed(99)
    for step in (5, 2):
        assert same(DetectorBatches(pictures, config)[step], first[step])
    assert not same(first[0], DetectorBatches(pictures, config.model_copy(update={"seed": 1}))[0])
    assert any(5 in target["labels"] for step in (5, 2) for target in first[step][1])  # of the photo, by its category


def pasted_over(pictures, tiny_config, paste, flip=0.0):
    """All pictures once, unchanged but for what is pasted, or mirrored: [(image, target)]."""
    config = changed(tiny_config, paste=paste, flip=flip, colour_jitter=0.0, zoom=1.0, batch_size=len(pictures))
    images, targets, _ = DetectorBatches(pictures, config)[0]
    return list(zip(images, targets, strict=True))


def test_every_frame_gets_a_photos_product_with_its_box(drawn, photo, tiny_config):
    n_pasted = 0
    for image, target in pasted_over([*drawn, photo], tiny_config, paste=1.0):
        red = (image[0] - image[1] > 0.3).numpy()
        if image[:, 0, 0].min() > 0.9:  # the photo itself
            assert len(target["boxes"]) == 1
            continue
        n_pasted += 1
        rows, columns = np.nonzero(red)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(target["boxes"][-1].numpy() - seen).max() <= 1.5
        assert target["labels"][-1] == 5 and set(target["labels"][:-1].tolist()) <= {1}
    assert n_pasted == 10


def test_any_product_of_a_photo_comes_to_any_place_mirrored_or_not(drawn, tiny_config, tmp_path):
    """Two products on one photo, each darker on its left: what is pasted tells which it was, and whether it is mirrored."""
    image = np.full((100, 200, 3), 255, np.uint8)
    for left, colour in ((20, (220, 20, 20)), (120, (20, 20, 220))):
        image[20:80, left : left + 40] = colour
        image[20:80, left : left + 20] //= 2
    write_jpeg(tmp_path / "two.jpg", image)
    boxes = np.float32([[20, 20, 60, 80], [120, 20, 160, 80]])
    photo = LabelledPicture(str(tmp_path / "two.jpg"), boxes, np.array([5, 6]), is_photo=True)
    seen, corners = set(), set()
    for flip in (0.0, 1.0):
        for shown, target in pasted_over([*drawn, *drawn, photo], tiny_config, 1.0, flip):
            label = int(target["labels"][-1])
            if shown[:, 0, 0].min() > 0.9 or label == 1:
                continue
            x1, y1, x2, y2 = target["boxes"][-1].round().int().tolist()
            bright = shown[0 if label == 5 else 2, y1:y2, x1:x2]
            left, right = bright[:, 3 : bright.shape[1] // 3].mean(), bright[:, -(bright.shape[1] // 3) : -3].mean()
            seen.add((label, flip, bool(left > right)))
            corners.add((x1, y1))
    assert seen == {(5, 0.0, False), (5, 1.0, True), (6, 0.0, False), (6, 1.0, True)}
    assert len(corners) > 15


def test_a_pasted_product_changes_its_colours_by_itself(photo, tiny_config, tmp_path):
    """Over frames of the product's own red: had both changed together, nothing of it would be seen."""
    write_jpeg(tmp_path / "red.jpg", np.full((100, 80, 3), (220, 20, 20), np.uint8))
    red = LabelledPicture(str(tmp_path / "red.jpg"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    config = changed(tiny_config, paste=1.0, colour_jitter=1.0, zoom=1.0, batch_size=10)
    seen = []
    for image, target in zip(*DetectorBatches([*[red] * 9, photo], config)[0][:2], strict=True):
        x1, y1, x2, y2 = target["boxes"][-1].round().int().tolist()
        around = torch.ones(image.shape[1:], dtype=torch.bool)
        around[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False
        inside = image[:, y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].mean(dim=(1, 2))
        seen.append(float((inside - image[:, around].mean(dim=1)).abs().max()))
    assert len(seen) == 10 and sum(difference > 0.02 for difference in seen) >= 8


def test_some_frames_get_one_and_photos_none(drawn, photo, tiny_config):
    pictures = [*drawn, photo, photo]
    without, half = (pasted_over(pictures, tiny_config, paste) for paste in (0.0, 0.5))
    changes = [not torch.equal(image, other) for (image, _), (other, _) in zip(without, half, strict=True)]
    photos = [bool(image[:, 0, 0].min() > 0.9) for image, _ in without]
    assert sum(photos) == 2 and not any(change for change, is_photo in zip(changes, photos, strict=True) if is_photo)
    assert 1 <= sum(changes) <= 9


def test_without_a_photo_on_paper_nothing_is_pasted(drawn, tiny_config, tmp_path):
    write_jpeg(tmp_path / "dark.jpg", np.zeros((80, 60, 3), np.uint8))
    dark = LabelledPicture(str(tmp_path / "dark.jpg"), np.float32([[10, 10, 50, 70]]), np.array([1]), is_photo=True)
    for pictures in (drawn, [*drawn, dark]):
        without, every = (pasted_over(pictures, tiny_config, paste) for paste in (0.0, 1.0))
        for (image, target), (other, other_target) in zip(without, every, strict=True):
            assert torch.equal(image, other) and torch.equal(target["boxes"], other_target["boxes"])


def test_a_paste_without_effect_is_told(drawn, photo, tiny_config, caplog):
    settings = changed(tiny_config, paste=0.5).detector_train
    unlabelled = dataclasses.replace(photo, boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, int))
    for pictures, words in (
        ([*drawn, photo], ""),
        ([*drawn, unlabelled], "nothing is pasted, since no photo has a labelled box"),
        ([photo, photo], "nothing is pasted, since there are no frames of videos"),
    ):
        caplog.clear()
        warn_of_paste(settings, pictures)
        assert words in caplog.text and bool(words) == bool(caplog.text)
    caplog.clear()
    warn_of_paste(changed(tiny_config, paste=0.0).detector_train, drawn)
    assert not caplog.text


def test_the_training_knows_photos_from_frames(tiny_data, tiny_config):
    dataset = read_dataset(tiny_data, LIMITS)
    rows = dataset.labelled.assign(picture="a.jpg")
    pictures = pictures_of(dataset, rows, tiny_config)
    of_photos = rows.media_id.str.contains("/image/")
    assert 0 < of_photos.sum() < len(rows)
    assert [picture.is_photo for picture in pictures] == of_photos.tolist()


@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_share_the_batch_of_one(drawn, photo, tiny_config, n_processes):
    config, pictures = changed(tiny_config, colour_jitter=1.0, paste=0.5, batch_size=6), [*drawn, photo]
    whole = DetectorBatches(pictures, config)
    shares = [DetectorBatches(pictures, config, process, n_processes) for process in range(n_processes)]
    for step in (0, 3):
        images, targets, canvas_hw = whole[step]
        for process, share in enumerate(shares):
            own = slice(process, None, n_processes)
            assert same(share[step], (images[own], targets[own])) and share[step][2] == canvas_hw


def pictures_shown(batches, steps, monkeypatch):
    """The files of each step's batch."""
    read = []
    monkeypatch.setattr(batches, "_sample", lambda labelled, size_hw, rng: (read.append(labelled.picture), {}))
    for step in steps:
        batches[step]
    return read


@pytest.mark.parametrize("batch_size", [2, 3, 10])
def test_every_picture_comes_once_per_epoch_in_an_order_of_its_own(drawn, tiny_config, monkeypatch, batch_size):
    batches = DetectorBatches(drawn, changed(tiny_config, batch_size=batch_size))
    shown = pictures_shown(batches, range(30 // batch_size), monkeypatch)
    orders = [shown[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(order) == sorted(picture.picture for picture in drawn) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_epochs_are_counted_by_pictures_shown(drawn, tiny_config):
    phases = [dict(phase_of(3, [32]), batch_size=4), dict(phase_of(2, [32]), batch_size=2)]
    batches = DetectorBatches(drawn, changed(tiny_config, phases=phases))
    assert [batches.epochs_before(step) for step in range(6)] == pytest.approx([0, 0.4, 0.8, 1.2, 1.4, 1.6])


def test_an_epoch_goes_on_in_the_next_phase(drawn, tiny_config, monkeypatch):
    phases = [dict(phase_of(3, [32]), batch_size=2), dict(phase_of(1, [32]), batch_size=4)]
    shown = pictures_shown(DetectorBatches(drawn, changed(tiny_config, phases=phases)), range(4), monkeypatch)
    assert sorted(shown) == sorted(picture.picture for picture in drawn)


def test_few_pictures_are_repeated_to_fill_a_batch(drawn, tiny_config):
    images, targets, _ = DetectorBatches(drawn[:3], changed(tiny_config, batch_size=8))[0]
    assert len(images) == len(targets) == 8


def phase_of(iterations, short_sides):
    return {
        "iterations": iterations,
        "short_sides": short_sides,
        "learning_rate": 0.1,
        "batch_size": 2,
        "start": "last",
    }


def test_sizes_go_by_phase_and_keep_to_the_limit(drawn, tiny_config):
    phases = [phase_of(3, [32, 48]), phase_of(2, [64])]
    batches = DetectorBatches(drawn, changed(tiny_config, phases=phases, max_side=1000, batch_size=4))
    assert len(batches) == 5
    for step in range(5):
        short = {min(image.shape[1:]) for image in batches[step][0]}
        assert len(short) == 1 and short <= ({32, 48} if step < 3 else {64})  # one for the whole batch
    limited = DetectorBatches(drawn, changed(tiny_config, phases=phases, max_side=40))
    assert max(max(image.shape[1:]) for image in limited[4][0]) <= 40


def test_a_picture_that_cannot_be_read_is_named(tiny_config, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"none")
    broken = LabelledPicture(str(tmp_path / "broken.jpg"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    with pytest.raises(UserError, match=r"broken\.jpg"):
        DetectorBatches([broken], tiny_config)[0]


def test_boxes_are_counted_without_reading_pixels(drawn, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("bbox_sub.targets.read_picture", None)
    write_jpeg(tmp_path / "small.jpg", np.zeros((20, 30, 3), np.uint8))
    boxes = np.float32([[0, 0, 30, 20], [-1, 5, 9, 21], [29.5, 0, 40, 20], [40, 0, 50, 9], [3, 3, 9, 3.5]])
    pictures = [*drawn, LabelledPicture(str(tmp_path / "small.jpg"), boxes, np.ones(5, np.int64))]
    with caplog.at_level("INFO"):
        counts = count_boxes(pictures, 10**6)
    assert counts == {
        "pictures": 11,
        "pictures_without_boxes": 1,
        "boxes": 14,
        "boxes_clipped": 1,
        "boxes_dropped": 3,
    }
    assert "11 pictures, 1 of them without a box; 14 boxes, 1 clipped to their picture, 3 under a pixel" in caplog.text


def test_a_file_that_is_no_picture_is_named_by_the_count(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"none")
    broken = LabelledPicture(str(tmp_path / "broken.jpg"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    with pytest.raises(UserError, match=r"broken\.jpg"):
        count_boxes([broken], 10**6)
