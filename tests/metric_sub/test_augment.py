"""Augmentation of training crops: off it changes nothing, on it does what its name says, and the seed decides."""

import cv2
import numpy as np
import pytest
import torch

from metric_sub.augment import build_augmentation, equalise_locally, shift_channels
from shared.config import Augment

STEPS = [name for name in Augment.model_fields if name != "box_jitter"]  # boxes are jittered before the cut


def settings(**probabilities):
    return Augment.model_validate(dict.fromkeys(Augment.model_fields, 0.0) | probabilities)


def crop():
    """A smooth, coloured picture with some detail, uint8 (3, 48, 64)."""
    rows, columns = np.mgrid[0:48, 0:64]
    image = np.stack([60 + columns * 2, 90 + rows * 2, 120 + 40 * np.sin(columns / 5.0) * np.cos(rows / 7.0)], axis=2)
    image[10:20, 30:50] = (200, 40, 60)
    return torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1).contiguous()


def augmented(seed=0, **probabilities):
    torch.manual_seed(seed)
    return build_augmentation(settings(**probabilities))(crop())


def test_all_off_only_brings_pixels_to_0_to_1():
    assert torch.allclose(augmented(), crop().float() / 255)


@pytest.mark.parametrize("name", STEPS)
def test_each_step_changes_the_picture_and_keeps_its_shape_and_range(name):
    for seed in range(3):
        image = augmented(seed, **{name: 1.0})
        assert image.shape == (3, 48, 64) and image.dtype == torch.float32
        assert 0 <= image.min() and image.max() <= 1
        assert not torch.allclose(image, crop().float() / 255, atol=1 / 255)


@pytest.mark.parametrize("name", STEPS)
def test_the_seed_decides_and_nothing_else(name):
    assert torch.equal(augmented(3, **{name: 1.0}), augmented(3, **{name: 1.0}))


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("flip", "grey", "clahe_or_sharpen")])
def test_strengths_are_drawn_anew(name):
    images = [augmented(seed, **{name: 1.0}) for seed in range(6)]
    assert any(not torch.equal(images[0], image) for image in images[1:])


def test_probabilities_are_kept_to():
    plain = crop().float() / 255
    share = np.mean([torch.allclose(augmented(seed, flip=0.25), plain) for seed in range(400)])
    assert share == pytest.approx(0.75, abs=0.08)


def test_all_on_together():
    image = augmented(**dict.fromkeys(STEPS, 1.0))
    assert image.shape == (3, 48, 64) and torch.isfinite(image).all() and 0 <= image.min() and image.max() <= 1


def test_flip_mirrors():
    assert torch.allclose(augmented(flip=1.0), crop().flip(-1).float() / 255)


def test_grey_has_equal_channels_of_the_same_lightness():
    image = augmented(grey=1.0)
    assert torch.equal(image[0], image[1]) and torch.equal(image[1], image[2])
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
    assert (image[0] - (weights * crop()).sum(0) / 255).abs().max() < 1.5 / 255


def test_cutout_leaves_a_grey_rectangle_and_the_rest():
    image, plain = augmented(cutout=1.0), crop().float() / 255
    changed = ((image - plain).abs() > 1e-6).any(0)
    rows, columns = torch.nonzero(changed, as_tuple=True)
    region = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (region == 0.5).all()
    assert 0.01 <= changed.float().mean() <= 0.25


def test_noise_has_its_strength():
    torch.manual_seed(0)
    noise = build_augmentation(settings(noise=1.0))(torch.full((3, 64, 64), 128, dtype=torch.uint8)) - 128 / 255
    assert noise.std().item() == pytest.approx(0.04, abs=0.003) and noise.mean().item() == pytest.approx(0, abs=0.003)


def test_channels_are_each_multiplied_by_one_gain():
    torch.manual_seed(0)
    gains = []
    for _ in range(50):
        shifted = shift_channels(torch.full((3, 4, 4), 200, dtype=torch.uint8))
        assert shifted.dtype == torch.uint8 and (shifted == shifted[:, :1, :1]).all()
        gains.append(shifted[:, 0, 0] / 200)
    gains = torch.stack(gains)
    assert 0.69 <= gains.min() < 0.75 and 1.25 < gains.max() <= 1.3
    assert (gains.std(dim=1) > 0).all()  # one gain per channel, not one for all
    assert shift_channels(torch.full((3, 4, 4), 255, dtype=torch.uint8)).max() <= 255  # no overflow


def test_local_equalisation_spreads_lightness_and_keeps_colour():
    flat = (crop().float() / 6 + 100).to(torch.uint8)  # little contrast
    equalised = equalise_locally(flat)
    assert equalised.shape == flat.shape and equalised.dtype == torch.uint8 and equalised.is_contiguous()
    before, after = (
        cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB).astype(int)
        for image in (flat, equalised)
    )
    assert after[..., 0].std() > 1.3 * before[..., 0].std()
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 3
