"""The networks of stage 2: a timm backbone, GeM pooling, a linear layer, BatchNorm, unit length.

`build_embedder` makes one from the config, `load_embedders` what a trained model's own folder holds.
"""

import difflib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import timm
import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from metric_sub.crops import CropRule
from metric_sub.openvino_engine import SOURCES, CompiledEmbedder, front_model
from shared.config import Embed, Embedder
from shared.errors import UserError, first_fault
from shared.quantized import made_or_quantized
from shared.runtime import Cache, Runtime, on_device
from shared.weights import fill_backbone, load_weights, read_description, refuse_other_shapes, save_weights

INFERENCE_KEYS = {"flip", "batch_size"}  # of the section `embed`: what inference may choose after training


_Networks = Annotated[int, Field(strict=True, ge=1, le=100)]


class _Architecture(BaseModel):
    model: dict
    shape: dict


class GeM(nn.Module):
    """Generalised-mean pooling (Radenović et al. 2018): (B, C, H, W) -> (B, C), the mean of x^p to the power 1/p, in float32.

    p = 1 is average pooling, a large p comes near to max pooling. Values under 1e-6 count as 1e-6.
    """

    def __init__(self, p: float, learned: bool):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([float(p)]), requires_grad=learned)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return features.float().clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)  # (B, C)


class EmbeddingNet(nn.Module):
    """Crops (B, 3, H, W), float 0..1 RGB -> unit vectors (B, dimension) float32. Normalises colours by `mean` and `std` itself."""

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        dimension: int,
        gem_p: float,
        gem_learned: bool,
        mean: tuple,
        std: tuple,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self.pool = GeM(gem_p, gem_learned)
        self.project = nn.Linear(n_features, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)

    def forward(self, crops: Tensor) -> Tensor:
        features = self.backbone((crops - self.mean) / self.std)  # (B, C, h, w)
        embedding = self.norm(self.project(self.pool(features)))  # (B, D)
        return F.normalize(embedding.float(), dim=1)


@dataclass(frozen=True)
class InputRule:
    """What a model wants to see: `size` px, in one of so many aspect groups, colours' `mean` and `std` (RGB of 0..1), `interpolation`
    of crops that grow.

    timm's crop_pct, which cuts a whole picture's border off, has no place here: the detector's box is the crop already.
    """

    size: int
    aspect_groups: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str

    @classmethod
    def of(cls, model: Embedder, shape: Embed) -> "InputRule":
        """What the config says, and where that is null what timm says of the backbone. Raises UserError for an unknown one."""
        own = _timm_says(model)
        return cls(
            model.input_size or own.input_size[1],
            model.aspect_groups,
            tuple(shape.mean or own.mean),
            tuple(shape.std or own.std),
            shape.interpolation or ("bicubic" if own.interpolation == "bicubic" else "bilinear"),
        )

    def crop_rule(self, shape: Embed) -> CropRule:
        return CropRule.of(self.size, self.aspect_groups, shape, self.interpolation)


@dataclass(frozen=True)
class TrainedEmbedder:
    """A trained network in evaluation mode, how its crops are cut, and whether it also sees the mirrored crop."""

    net: EmbeddingNet | CompiledEmbedder
    crop_rule: CropRule
    flip: bool

    @property
    def dimension(self) -> int:
        return self.net.project.out_features if isinstance(self.net, nn.Module) else self.net.dimension


def build_embedder(model: Embedder, shape: Embed, *, load_pretrained: bool) -> EmbeddingNet:
    """The network of one entry of `embedders`, drawn anew; load_pretrained: with the weights that its training begins with.

    Raises UserError for an unknown backbone and for weights that do not fit.
    """
    rule = InputRule.of(model, shape)
    try:
        backbone = timm.create_model(model.backbone, num_classes=0, global_pool="")
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:  # not every network of timm goes without pooling
        raise _not_convolutional(model, f"{type(error).__name__} ({error}) where timm makes it without pooling") from None
    if load_pretrained:
        if model.pretrained is False:
            _begin_shallow(backbone)
        fill_backbone(
            backbone,
            model.backbone,
            model.pretrained,
            f"embedders.{model.name}.pretrained",
            place="metric_sub/pretrained",
        )
    return EmbeddingNet(
        backbone, _n_features(backbone, model), shape.dimension, shape.gem_p, shape.gem_learned, rule.mean, rule.std
    )


def _begin_shallow(backbone: nn.Module) -> None:
    """Residual blocks begin as the identity: the scale of the last batch or group norm of each is 0 (Goyal et al. 2017, section 5.1).

    timm does so in its ResNets, not in EfficientNets and their kin, whose blocks have `has_skip`, unless they scale by `layer_scale`.
    Drawn as timm draws it, a deep one did not learn, in float32 either; in bfloat16 its gradients are mostly rounding.
    """
    for block in backbone.modules():
        if getattr(block, "has_skip", False) and isinstance(getattr(block, "layer_scale", nn.Identity()), nn.Identity):
            norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d | nn.GroupNorm)]
            for norm in norms[-1:]:
                nn.init.zeros_(norm.weight)


def _n_features(backbone: nn.Module, model: Embedder) -> int:
    """C of the backbone's (B, C, h, w). Raises UserError where it gives no such map, as transformers do."""
    try:
        with torch.inference_mode():
            features = backbone.eval()(torch.zeros(1, 3, 64, 64))  # (1, C, h, w)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _not_convolutional(model, f"{type(error).__name__} ({error}) for a crop of 64 x 64") from None
    backbone.train()
    if not isinstance(features, Tensor):
        raise _not_convolutional(model, f"a {type(features).__name__}")
    if features.ndim != 4 or features.shape[1] not in (backbone.num_features, backbone.head_hidden_size):
        raise _not_convolutional(model, f"an output of shape {tuple(features.shape)} for a crop of 64 x 64")
    return features.shape[1]


def _not_convolutional(model: Embedder, found: str) -> UserError:
    return UserError(
        f"embedders: {model.name}: backbone {model.backbone!r}: expected a convolutional network that takes crops of any size and gives a "
        f"map (B, C, h, w), found {found}. Name another, such as tf_efficientnet_b5."
    )


def _timm_says(model: Embedder) -> timm.models.PretrainedCfg:
    if not timm.is_model(model.backbone):
        near = difflib.get_close_matches(model.backbone.split(".")[0], timm.list_models(), n=5)
        raise UserError(
            f"embedders: {model.name}: timm has no backbone {model.backbone!r}; near it: {', '.join(near) or 'none'}."
        )
    try:
        return timm.get_pretrained_cfg(model.backbone)
    except (RuntimeError, ValueError) as error:  # the name is known, the tag after its dot is not
        known = ", ".join(timm.list_pretrained(f"{model.backbone.split('.')[0]}.*")) or "none"
        raise UserError(f"embedders: {model.name}: backbone {model.backbone!r}: {error} Known: {known}.") from None


def save_embedder(
    folder: Path, networks: list[EmbeddingNet], model: Embedder, shape: Embed, metrics: dict, epoch: float
) -> None:
    """Writes a model's folder: one network, or several (concatenated snapshots) whose weights' names begin with their number."""
    rule = InputRule.of(model, shape)
    description = {
        "kind": "embedder",
        "architecture": {"model": model.model_dump(), "shape": shape.model_dump()},
        "networks": len(networks),
        "input_size": rule.size,
        "interpolation": rule.interpolation,
        "mean": rule.mean,
        "std": rule.std,
        "order": "RGB, 0..1, normalised inside the model",
        "metrics": metrics,
        "epoch": epoch,
    }
    save_weights(folder, _in_one(networks), description)


def _in_one(networks: list[EmbeddingNet]) -> nn.Module:
    return networks[0] if len(networks) == 1 else nn.ModuleList(networks)


def read_embedder(folder: Path) -> tuple[Embedder, Embed, int]:
    """What model.json says of an embedder: its config, that of all, and of how many networks it is.

    Raises UserError where it says something else.
    """
    description, keys = read_description(folder), ("mean", "std", "interpolation")
    try:
        architecture = _Architecture.model_validate(description["architecture"])
        # What it was trained with, whatever timm says by now.
        model = Embedder.model_validate(architecture.model | {"input_size": description["input_size"]})
        shape = Embed.model_validate(architecture.shape | {key: description[key] for key in keys})
        return model, shape, TypeAdapter(_Networks).validate_python(description["networks"])
    except (KeyError, ValidationError) as error:
        said = first_fault(error) if isinstance(error, ValidationError) else f"no {error}"
        raise UserError(f"{folder / 'model.json'}: not an embedder that this version knows: {said}. Train again.") from None


def load_embedders(folder: Path, *, runtime: Runtime, flip: bool) -> list[TrainedEmbedder]:
    """The trained network of a model folder, ready for the runtime; of concatenated snapshots each.

    Raises UserError where the folder is missing or does not fit.
    """
    model, shape, n_networks = read_embedder(folder)

    def build() -> list[EmbeddingNet]:
        return [build_embedder(model, shape, load_pretrained=False) for _ in range(n_networks)]

    refuse_other_shapes(folder, lambda: _in_one(build()))
    networks = build()
    load_weights(folder, _in_one(networks))
    rule = InputRule.of(model, shape).crop_rule(shape)
    if runtime.engine == "torch":
        return [TrainedEmbedder(on_device(network.eval(), runtime), rule, flip) for network in networks]
    return [
        TrainedEmbedder(CompiledEmbedder(network.eval(), make, runtime, cache), rule, flip)
        for network, (make, cache) in zip(networks, _compilations(networks, runtime, folder), strict=True)
    ]


def _compilations(networks: list[EmbeddingNet], runtime: Runtime, folder: Path) -> list[tuple]:
    """What makes each network's OpenVINO model, and where it is kept compiled."""
    return [
        made_or_quantized(partial(front_model, network), runtime, Cache.of(folder, f"network{k}", SOURCES), folder)
        for k, network in enumerate(networks)
    ]
