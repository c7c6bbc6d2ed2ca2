"""Augmentation of training crops: off it changes nothing, on it does what its name says, and the seed decides."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from metric_sub.augment import (
    Affine,
    Blur,
    Colours,
    Perspective,
    Sharpen,
    build_augmentation,
    change_hue,
    compress,
    equalise_locally,
    mix_crops,
    shift_channels,
)
from shared.config import Augment

ELSEWHERE = ("box_jitter", "backdrop", "mixup", "cutmix")  # before and behind the crop, and of a whole batch
STEPS = [name for name in Augment.model_fields if name not in ELSEWHERE]


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


WARP = {"fill": 127, "interpolation": v2.InterpolationMode.BILINEAR}


@pytest.mark.parametrize(
    ("ours", "torchvisions", "tolerance"),
    [
        (Affine(30, (0.1, 0.2), (0.7, 1.3), (-20, 20, -10, 10), **WARP), v2.RandomAffine, 1.5),
        (Perspective(0.5, 1.0, **WARP), v2.RandomPerspective, 4.0),  # torchvision's is half a pixel off
        (Colours(brightness=0.5), v2.ColorJitter, 1.0),
        (Colours(contrast=0.5), v2.ColorJitter, 1.0),
        (Colours(saturation=0.8), v2.ColorJitter, 1.0),
        (Colours(hue=0.5), v2.ColorJitter, 1.5),
        (Colours(0.4, 0.4, 0.4, 0.1), v2.ColorJitter, 2.5),
        (Sharpen(2.0, 1.0), v2.RandomAdjustSharpness, 1.0),
        (Blur(5, (0.3, 2.0)), v2.GaussianBlur, 0.5),
    ],
)
def test_opencv_makes_what_torchvision_would_have_made(ours, torchvisions, tolerance):
    """The same transform with torchvision's own pixels, of the same draws; the mean difference in levels of 255."""
    assert isinstance(ours, torchvisions)
    differences = []
    for seed in range(20):
        torch.manual_seed(seed)
        params = ours.make_params([crop()])
        changed, expected = ours.transform(crop(), params), torchvisions.transform(ours, crop(), params)
        assert changed.dtype == torch.uint8 and changed.shape == crop().shape
        differences.append((changed.float() - expected.float()).abs().mean().item())
        assert (expected.float() - crop().float()).abs().mean() > differences[-1]  # it did something
    assert np.mean(differences) < tolerance


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.02, 0.25])
def test_hues_turn_as_far_as_they_should(turn):
    pixels = np.ascontiguousarray(crop().permute(1, 2, 0).numpy())
    expected = v2.functional.adjust_hue(Image.fromarray(pixels), turn)
    assert np.abs(change_hue(pixels, turn).astype(float) - np.asarray(expected)).mean() < 3
    assert change_hue(np.full((2, 2, 3), 90, np.uint8), turn).tolist() == [[[90] * 3] * 2] * 2  # grey has none


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


def test_a_jpeg_is_near_and_keeps_its_colours_apart():
    torch.manual_seed(0)
    plain, sizes = crop().float(), []
    for _ in range(20):
        image = compress(crop())
        assert image.dtype == torch.uint8 and image.shape == plain.shape
        error = (image.float() - plain).abs().mean(dim=(1, 2))
        assert error.max() < 8
        sizes.append(error.mean().item())
    assert max(sizes) > 2 * min(sizes)  # of different qualities


@given(st.integers(1, 9), st.booleans(), st.integers(0, 1000))
def test_mixing_makes_what_it_says(n, cuts, seed):
    """Crop k is filled with the level k / 10 and is of class 10 + k: pixels tell what was mixed with what."""
    levels = torch.arange(n) / 10
    images = levels[:, None, None, None].expand(n, 3, 32, 48)
    mixture = settings(cutmix=1.0) if cuts else settings(mixup=1.0)
    mixed, classes, others, share = mix_crops(images, torch.arange(n) + 10, mixture, np.random.default_rng(seed))
    assert mixed.shape == images.shape and mixed.dtype == torch.float32 and 0 <= share <= 1
    assert sorted(classes.tolist()) == [10 + k for k in range(n)]  # each crop once, each mixed into one
    own, other = (classes - 10) / 10, (others - 10) / 10
    if share < 1 and n > 1:
        assert sorted(others.tolist()) == [10 + k for k in range(n)] and (classes != others).all()
    means = mixed.mean(dim=(1, 2, 3))
    assert means.tolist() == pytest.approx((share * own + (1 - share) * other).tolist(), abs=1e-4)
    if cuts:
        assert {round(level, 4) for level in mixed.unique().tolist()} <= {round(k / 10, 4) for k in range(n)}
    else:
        assert (mixed.amax(dim=(1, 2, 3)) - mixed.amin(dim=(1, 2, 3))).max() < 1e-6


def test_mixing_keeps_to_its_probabilities_and_spreads_partners():
    images, classes = torch.rand(8, 3, 16, 16, generator=torch.manual_seed(0)), torch.arange(8)
    kinds, partners, shares = [], set(), []
    for seed in range(1000):
        mixed, first, second, share = mix_crops(
            images, classes, settings(mixup=0.2, cutmix=0.3), np.random.default_rng(seed)
        )
        if share == 1 and torch.equal(first, classes):
            assert mixed is images and second is classes
            kinds.append("none")
            continue
        kept = (mixed == images[first]).float().mean().item()
        kinds.append("cutmix" if kept > 0.01 else "mixup")
        if share < 1:
            partners |= set(zip(first.tolist(), second.tolist(), strict=True))
        if kinds[-1] == "mixup":
            shares.append(share)
    assert [kinds.count(kind) / 1000 for kind in ("mixup", "cutmix")] == pytest.approx([0.2, 0.3], abs=0.05)
    assert len(partners) == 8 * 7  # not its neighbour alone
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.03)  # of a Beta(0.2, 0.2)


def test_generators_that_are_equal_mix_equally_whatever_the_number_of_crops():
    mixture = settings(mixup=0.5, cutmix=0.5)
    for seed in range(20):
        shares = {
            mix_crops(torch.rand(n, 3, 16, 16), torch.arange(n), mixture, np.random.default_rng(seed))[3]
            for n in (2, 4, 8)
        }
        assert len(shares) == 1


def test_local_equalisation_spreads_lightness_and_keeps_colour():
    flat = (crop().float() / 6 + 100).to(torch.uint8)  # little contrast
    equalised = equalise_locally(flat)
    assert equalised.shape == flat.shape and equalised.dtype == torch.uint8
    before, after = (
        cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB).astype(int)
        for image in (flat, equalised)
    )
    assert after[..., 0].std() > 1.3 * before[..., 0].std()
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 3
