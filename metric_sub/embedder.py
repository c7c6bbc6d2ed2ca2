"""The networks of stage 2: a timm backbone, GeM pooling, a linear layer, BatchNorm, unit length.

`build_embedder` makes one from the config, `load_embedder` from a trained model's own folder.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metric_sub.crops import CropRule
from shared.config import Embed, Embedder
from shared.errors import UserError
from shared.weights import fill_backbone, load_weights, read_description

INFERENCE_KEYS = {"flip", "batch_size"}  # of the section `embed`: what inference may choose after training


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
    """What a backbone wants to see: `size` px, `interpolation` of crops that grow."""

    size: int
    interpolation: str

    @classmethod
    def of(cls, model: Embedder, shape: Embed) -> "InputRule":
        """What the config says, and where that is null what timm says of the backbone."""
        own = timm.get_pretrained_cfg(model.backbone)
        return cls(model.input_size or own.input_size[1], shape.interpolation or own.interpolation)

    def crop_rule(self, shape: Embed) -> CropRule:
        return CropRule.of(self.size, shape, self.interpolation)


@dataclass(frozen=True)
class TrainedEmbedder:
    """A trained network in evaluation mode, how its crops are cut, and whether it also sees the mirrored crop."""

    net: EmbeddingNet
    crop_rule: CropRule
    flip: bool


def build_embedder(model: Embedder, shape: Embed, *, load_pretrained: bool) -> EmbeddingNet:
    """The network of one entry of `embedders`. Raises UserError for an unknown backbone and for weights that do not fit."""
    if not timm.is_model(model.backbone):
        near = difflib.get_close_matches(model.backbone.split(".")[0], timm.list_models(), n=5)
        raise UserError(
            f"embedders: {model.name}: timm has no backbone {model.backbone!r}; near it: {', '.join(near) or 'none'}."
        )
    try:
        backbone = timm.create_model(model.backbone, num_classes=0, global_pool="")
    except RuntimeError as error:  # the name is known, the tag after its dot is not
        raise UserError(f"embedders: {model.name}: backbone {model.backbone!r}: {error}") from None
    if load_pretrained:
        fill_backbone(backbone, model.backbone, model.pretrained, f"embedders.{model.name}.pretrained")
    colours = backbone.pretrained_cfg
    return EmbeddingNet(
        backbone,
        backbone.num_features,
        shape.dimension,
        shape.gem_p,
        shape.gem_learned,
        colours["mean"],
        colours["std"],
    )


def describe_embedder(net: EmbeddingNet, model: Embedder, shape: Embed, metrics: dict, epoch: int) -> dict:
    """What model.json tells: enough for `load_embedder`."""
    return {
        "kind": "embedder",
        "architecture": {"model": model.model_dump(), "shape": shape.model_dump()},
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
        "order": "RGB, 0..1, normalised inside the model",
        "metrics": metrics,
        "epoch": epoch,
    }


def load_embedder(folder: Path, *, flip: bool) -> TrainedEmbedder:
    """The trained network of a model folder. Raises UserError where the folder is missing or does not fit."""
    description = read_description(folder)
    architecture = description["architecture"]
    model, shape = Embedder.model_validate(architecture["model"]), Embed.model_validate(architecture["shape"])
    net = build_embedder(model, shape, load_pretrained=False)
    load_weights(folder, net)
    for name in ("mean", "std"):  # what it was trained with, whatever timm says by now
        getattr(net, name).copy_(torch.tensor(description[name]).view(1, 3, 1, 1))
    return TrainedEmbedder(net.eval(), InputRule.of(model, shape).crop_rule(shape), flip)
