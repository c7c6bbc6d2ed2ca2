"""Crops: groups of aspect ratios, sizes, and the very pixels that a box covers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metric_sub.crops import SIDE_STEP, CropRule, crops_of_boxes, cut_crop, to_input

RULE = CropRule(128, 0.0, (0.5, 1.0, 2.0), "bilinear")


def shape_of(config, **keys):
    return type(config.embed).model_validate({**config.embed.model_dump(), **keys})


@pytest.mark.parametrize(
    ("groups", "limit", "ratios"),
    [
        (1, 3.0, [1]),
        (2, 4.0, [1 / 4, 4]),
        (3, 4.0, [1 / 4, 1, 4]),
        (5, 4.0, [1 / 4, 1 / 2, 1, 2, 4]),
        (3, 1.0, [1, 1, 1]),
    ],
)
def test_ratios_are_even_by_factor(tiny_config, groups, limit, ratios):
    shape = shape_of(tiny_config, aspect_limit=limit, crop_margin=0.2)
    rule = CropRule.of(128, groups, shape, "bicubic")
    assert rule.ratios == pytest.approx(ratios)
    assert (rule.size, rule.margin, rule.interpolation) == (128, 0.2, "bicubic")


@pytest.mark.parametrize(
    ("width", "height", "group"),
    [
        (10, 10, 1),
        (10, 20, 2),
        (20, 10, 0),
        (10, 14, 1),
        (10, 15, 2),  # the border lies at the factor 2 ** 0.5 = 1.414
        (14, 10, 1),
        (15, 10, 0),
        (1, 1000, 2),
        (1000, 1, 0),
        (0, 10, 2),
        (10, 0, 0),
        (0, 0, 1),
    ],
)
def test_a_box_goes_to_the_nearest_ratio_by_factor(width, height, group):
    assert RULE.groups_of(np.float32([[5, 7, 5 + width, 7 + height]])).tolist() == [group]


@given(st.integers(32, 640), st.floats(0.2, 5), st.sampled_from([0.5, 0.75, 0.875, 1.0, 1.5]))
def test_sizes_are_multiples_that_keep_area_and_ratio_about(size, ratio, scale):
    height, width = CropRule(size, 0.0, (ratio,), "bilinear").size_of(0, scale)
    assert height % SIDE_STEP == width % SIDE_STEP == 0 and min(height, width) >= SIDE_STEP
    assert (
        abs(height - size * scale * math.sqrt(ratio))
        <= max(SIDE_STEP / 2, SIDE_STEP - size * scale * math.sqrt(ratio)) + 1e-6
    )
    assert (
        abs(width - size * scale / math.sqrt(ratio))
        <= max(SIDE_STEP / 2, SIDE_STEP - size * scale / math.sqrt(ratio)) + 1e-6
    )


def test_sizes_by_hand():
    assert [RULE.size_of(group) for group in range(3)] == [
        (96, 176),
        (128, 128),
        (176, 96),
    ]  # 90.5 and 181 to multiples of 16
    assert RULE.size_of(1, 0.5) == (64, 64)


def noise(height=40, width=50):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((10, 5, 26, 21), (5, 21), (10, 26)),
        ((10.0, 5.0, 25.1, 20.1), (5, 21), (10, 26)),  # a pixel that is touched belongs to it
        ((10.9, 5.9, 26.0, 21.0), (5, 21), (10, 26)),
        ((-9, -9, 7, 6.5), (0, 7), (0, 7)),
        ((44, 30, 90, 70), (30, 40), (44, 50)),
        ((50, 40, 60, 60), (39, 40), (49, 50)),  # wholly outside: the nearest pixel
        ((-20, -20, -4, -4), (0, 1), (0, 1)),
        ((20, 20, 20, 20), (20, 21), (20, 21)),
        ((30, 30, 20, 20), (30, 31), (30, 31)),  # inside out
    ],
)
def test_the_pixels_that_a_box_touches(box, rows, columns):
    image = noise()
    expected = image[rows[0] : rows[1], columns[0] : columns[1]]
    for interpolation in ("bilinear", "bicubic"):
        assert np.array_equal(cut_crop(image, np.float32(box), expected.shape[:2], interpolation), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_takes_means(interpolation):
    image = noise(32, 32)
    means = image.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(cut_crop(image, np.float32([0, 0, 32, 32]), (16, 16), interpolation) - means).max() <= 0.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_growing_interpolates_as_torch_does(interpolation):
    image = noise(32, 32)
    part = torch.from_numpy(image[4:12, 4:12]).permute(2, 0, 1)[None].float()  # (1, 3, 8, 8)
    expected = torch.nn.functional.interpolate(part, (16, 16), mode=interpolation)[0].permute(1, 2, 0).clamp(0, 255)
    box = np.float32([4, 4, 12, 12])
    assert np.abs(cut_crop(image, box, (16, 16), interpolation) - expected.numpy()).max() <= 1.01
    [crop], _ = crops_of_boxes(image, box[None], CropRule(16, 0.0, (1.0,), interpolation))
    assert np.array_equal(crop, cut_crop(image, box, (16, 16), interpolation))


def test_one_crop_per_box_of_its_groups_size():
    boxes = np.float32([[0, 0, 20, 20], [5, 0, 15, 20], [0, 10, 40, 30], [1, 1, 2, 2]])
    crops, groups = crops_of_boxes(noise(), boxes, RULE)
    assert groups.tolist() == [1, 2, 0, 1]
    assert [crop.shape for crop in crops] == [(128, 128, 3), (176, 96, 3), (96, 176, 3), (128, 128, 3)]
    crops, groups = crops_of_boxes(noise(), np.zeros((0, 4)), RULE)
    assert crops == [] and groups.shape == (0,)


def test_the_margin_takes_in_what_is_around():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 40:60] = 255
    box = np.float32([[40, 40, 60, 60]])
    [tight], _ = crops_of_boxes(image, box, CropRule(64, 0.0, (1.0,), "bilinear"))
    [wide], _ = crops_of_boxes(image, box, CropRule(64, 0.5, (1.0,), "bilinear"))  # twice as wide and high
    assert (tight == 255).all()
    assert (
        wide.mean() / 255 == pytest.approx(0.25, abs=0.02)
        and (wide[28:36, 28:36] == 255).all()
        and (wide[:12] == 0).all()
    )


def test_inputs_are_channels_first_from_0_to_1():
    crop = np.zeros((16, 32, 3), np.uint8)
    crop[2, 3] = (255, 51, 0)
    batch = to_input([crop, crop])
    assert batch.shape == (2, 3, 16, 32) and str(batch.dtype) == "torch.float32"
    assert batch[1, :, 2, 3].tolist() == pytest.approx([1, 0.2, 0]) and batch.sum() == pytest.approx(2.4)
