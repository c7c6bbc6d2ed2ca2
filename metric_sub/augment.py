"""Augmentation of training crops, against colour, angle and quality. Draws from torch's generator, which the caller seeds."""

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from shared.config import Augment


def build_augmentation(settings: Augment) -> v2.Compose:
    """uint8 (3, H, W) RGB -> float32 (3, H, W) in 0..1, each step with its probability from the config."""
    quality = v2.RandomChoice([v2.Lambda(equalise_locally), v2.RandomAdjustSharpness(2.0, p=1.0)])
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(settings.flip),
            _sometimes(
                v2.RandomAffine(
                    degrees=15,
                    translate=(0.06, 0.06),
                    scale=(0.85, 1.15),
                    shear=6,
                    fill=127,
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                settings.affine,
            ),
            v2.RandomPerspective(distortion_scale=0.25, p=settings.perspective, fill=127),
            _sometimes(v2.ColorJitter(brightness=0.4, contrast=0.4), settings.brightness_contrast),
            _sometimes(v2.ColorJitter(saturation=0.4, hue=0.04), settings.colour),
            _sometimes(v2.Lambda(shift_channels), settings.channel_shift),
            _sometimes(quality, settings.clahe_or_sharpen),
            _sometimes(v2.GaussianBlur(5, sigma=(0.3, 2.0)), settings.blur),
            _sometimes(v2.Lambda(compress), settings.jpeg),
            v2.RandomGrayscale(settings.grey),
            v2.ToDtype(torch.float32, scale=True),
            _sometimes(v2.GaussianNoise(sigma=0.04), settings.noise),
            v2.RandomErasing(p=settings.cutout, scale=(0.02, 0.2), value=0.5),
        ]
    )


def shift_channels(image: Tensor) -> Tensor:
    """Each colour channel times its own gain from 0.7 to 1.3, as under another lamp: uint8 (3, H, W) -> the same."""
    gains = torch.empty(3, 1, 1).uniform_(0.7, 1.3)
    return (image.float() * gains).clamp(0, 255).to(torch.uint8)


def equalise_locally(image: Tensor) -> Tensor:
    """CLAHE (contrast-limited adaptive histogram equalisation) of the lightness: uint8 (3, H, W) -> the same."""
    lab = cv2.cvtColor(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(4, 4)).apply(lab[..., 0])
    return torch.from_numpy(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).permute(2, 0, 1).contiguous()


def compress(image: Tensor) -> Tensor:
    """Through a JPEG of quality 25 to 90 and back: uint8 (3, H, W) -> the same."""
    quality = int(torch.randint(25, 91, ()))
    data = cv2.imencode(".jpg", image.permute(1, 2, 0).numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)).permute(2, 0, 1).contiguous()


def _sometimes(transform: torch.nn.Module, probability: float) -> v2.RandomApply:
    return v2.RandomApply([transform], p=probability)
