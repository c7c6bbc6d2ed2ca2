"""Augmentation of training crops, against colour, angle and quality.

torchvision's transforms draw and do; where their CPU kernels are slow (warps, colours, blur), OpenCV does the pixels of what
they drew, several times as fast. They draw from torch's CPU generator, which the caller seeds.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from shared.config import Augment

FILL = 127  # the grey that a warp sees beyond the crop
SMOOTH = np.float32([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's ImageFilter.SMOOTH
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of R, G, B in lightness (ITU-R BT.601)


def build_augmentation(settings: Augment) -> v2.Compose:
    """uint8 (3, H, W) RGB -> float32 (3, H, W) in 0..1, each step with its probability from the config."""
    quality = v2.RandomChoice([v2.Lambda(equalise_locally), Sharpen(2.0, p=1.0)])
    steps = [
        (v2.RandomHorizontalFlip(p=1.0), settings.flip),
        (Affine(degrees=15, translate=(0.06, 0.06), scale=(0.85, 1.15), shear=6, fill=FILL), settings.affine),
        (Perspective(distortion_scale=0.25, p=1.0, fill=FILL), settings.perspective),
        (Colours(brightness=0.4, contrast=0.4), settings.brightness_contrast),
        (Colours(saturation=0.4, hue=0.04), settings.colour),
        (v2.Lambda(shift_channels), settings.channel_shift),
        (quality, settings.clahe_or_sharpen),
        (Blur(5, sigma=(0.3, 2.0)), settings.blur),
        (v2.Lambda(compress), settings.jpeg),
        (v2.Grayscale(num_output_channels=3), settings.grey),
        (v2.Lambda(torch.Tensor.contiguous), 1.0),  # OpenCV left channels last, which makes noise slow
        (v2.ToDtype(torch.float32, scale=True), 1.0),
        (v2.GaussianNoise(sigma=0.04), settings.noise),
        (v2.RandomErasing(p=1.0, scale=(0.02, 0.2), value=0.5), settings.cutout),
    ]
    return v2.Compose([v2.RandomApply([step], p=probability) for step, probability in steps if probability])


class Affine(v2.RandomAffine):
    """v2.RandomAffine of uint8 (3, H, W), bilinear, by OpenCV."""

    def transform(self, image: Tensor, params: dict) -> Tensor:
        height, width = image.shape[1:]
        angle, shear_x, shear_y = np.deg2rad([params["angle"], *params["shear"]])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shear = np.array([[1, -np.tan(shear_x)], [0, 1]]) @ np.array([[1, 0], [-np.tan(shear_y), 1]])
        linear = params["scale"] * rotation @ shear
        middle = np.array([width - 1, height - 1]) / 2
        offset = middle + params["translate"] - linear @ middle
        matrix = np.column_stack([linear, offset])  # input pixel -> output pixel
        return _image(cv2.warpAffine(_pixels(image), matrix, (width, height), borderValue=(self.fill,) * 3))


class Perspective(v2.RandomPerspective):
    """v2.RandomPerspective of uint8 (3, H, W), bilinear, by OpenCV."""

    def transform(self, image: Tensor, params: dict) -> Tensor:
        height, width = image.shape[1:]
        matrix = np.append(params["coefficients"], 1.0).reshape(3, 3)  # output pixel -> input pixel
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return _image(
            cv2.warpPerspective(_pixels(image), matrix, (width, height), flags=flags, borderValue=(self.fill,) * 3)
        )


class Colours(v2.ColorJitter):
    """v2.ColorJitter of uint8 (3, H, W) by OpenCV."""

    def transform(self, image: Tensor, params: dict) -> Tensor:
        pixels = _pixels(image)
        changes = [
            (change_brightness, params["brightness_factor"]),
            (change_contrast, params["contrast_factor"]),
            (change_saturation, params["saturation_factor"]),
            (change_hue, params["hue_factor"]),
        ]
        for number in params["fn_idx"]:  # their order is drawn too
            change, strength = changes[number]
            if strength is not None:
                pixels = change(pixels, strength)
        return _image(pixels)


class Sharpen(v2.RandomAdjustSharpness):
    """v2.RandomAdjustSharpness of uint8 (3, H, W) by OpenCV: distances from a slightly blurred picture times the factor."""

    def transform(self, image: Tensor, params: dict) -> Tensor:
        pixels, factor = _pixels(image), self.sharpness_factor
        return _image(cv2.addWeighted(pixels, factor, cv2.filter2D(pixels, -1, SMOOTH), 1 - factor, 0))


class Blur(v2.GaussianBlur):
    """v2.GaussianBlur of uint8 (3, H, W) by OpenCV."""

    def transform(self, image: Tensor, params: dict) -> Tensor:
        return _image(cv2.GaussianBlur(_pixels(image), self.kernel_size, *params["sigma"]))


def change_brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (H, W, 3) times the factor."""
    return cv2.addWeighted(pixels, factor, pixels, 0, 0)


def change_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (H, W, 3): distances from the mean lightness times the factor."""
    mean = float(np.dot(cv2.mean(pixels)[:3], GREY_WEIGHTS))
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * mean)


def change_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """uint8 (H, W, 3): distances from the pixel's own grey times the factor."""
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(pixels, factor, grey, 1 - factor, 0)


def change_hue(pixels: np.ndarray, turn: float) -> np.ndarray:
    """uint8 (H, W, 3) with hues turned by `turn`, -0.5..0.5 of the circle."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # 256 steps make the circle, and bytes run over as hues do
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def shift_channels(image: Tensor) -> Tensor:
    """Each colour channel times its own gain from 0.7 to 1.3, as under another lamp: uint8 (3, H, W) -> the same."""
    gains = torch.empty(3).uniform_(0.7, 1.3).tolist()
    return _image(cv2.multiply(_pixels(image), (*gains, 0.0)))


def equalise_locally(image: Tensor) -> Tensor:
    """CLAHE (contrast-limited adaptive histogram equalisation) of the lightness: uint8 (3, H, W) -> the same."""
    lab = cv2.cvtColor(_pixels(image), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(lab[..., 0])
    return _image(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def compress(image: Tensor) -> Tensor:
    """Through a JPEG of quality 25 to 90 and back: uint8 (3, H, W) -> the same."""
    quality = int(torch.randint(25, 91, ()))
    bgr = cv2.cvtColor(_pixels(image), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return _image(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def mix_crops(
    images: Tensor, classes: Tensor, settings: Augment, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch, with their probabilities from the config.

    images (B, 3, H, W) float32, classes (B,) int64 -> images, classes, the classes of the crops that were mixed in, and the
    share of the first, 0..1. Mixed crops come in another order. Equal generators give equal shares and places.
    """
    draw = rng.random()
    if draw >= settings.mixup + settings.cutmix:
        return images, classes, classes, 1.0
    n = len(images)
    torch.default_generator.manual_seed(int(rng.integers(2**63)))
    mix = v2.MixUp(alpha=0.2, num_classes=n) if draw < settings.mixup else v2.CutMix(alpha=1.0, num_classes=n)
    order = torch.from_numpy(rng.permutation(n))  # neighbours are mixed, and would else be of one product
    images, shares = mix(images[order], torch.arange(n))  # shares (B, B): of crop j in mixed crop i
    share = shares[0, 0].item()
    classes = classes[order]
    others = classes[shares.fill_diagonal_(0).argmax(dim=1)] if share < 1 else classes
    return images, classes, others, share


def _pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3), as OpenCV has it; without a copy where the tensor came from `_image`."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _image(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) -> (3, H, W), a view."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
