"""Descriptors with their weights and, for those of colours, the linear map that training learnt for them: <weights>/whitening.

A lamp, a camera or a backdrop changes the colours of all products in much the same ways. Where training boxes show which, these
directions can count less: within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006).
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from metric_sub.descriptors import DESCRIPTORS, descriptor_weights, descriptors_of_boxes, unit_rows
from shared.config import DescriptorSettings, Whitening
from shared.errors import UserError
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.tables import BOX
from shared.weights import load_weights, read_description, refuse_other_architecture, save_weights

log = logging.getLogger("whitening")

FOLDER = "whitening"  # of the weights folder
MOST_BOXES = 20_000  # to learn from, which bounds the memory
LEAST_VARIANCE = 1e-9  # in all: boxes of unit length that differ by less are equal
LEAST_SHARE = 1e-9  # of the largest eigenvalue: what lies below it is rounding


class NothingToLearn(ValueError):
    pass


@dataclass(frozen=True, eq=False)
class Descriptors:
    """weights: name -> what a descriptor counts beside an embedder. maps: name -> (its length, values) float32, for those that are
    whitened. sha256: of the maps' file, None without one."""

    weights: dict[str, float] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def settings(self) -> dict:
        """What vectors depend on."""
        return {**self.weights, "whitening": self.sha256}

    @property
    def lengths(self) -> list[int]:
        """How many values each gives."""
        return [self.maps[name].shape[1] if name in self.maps else DESCRIPTORS[name].length for name in self.weights]

    def of_boxes(self, image_rgb: np.ndarray, boxes_xyxy: np.ndarray) -> list[np.ndarray]:
        """The vectors of a picture's boxes (N, 4), of each descriptor (N, its length) float32 of unit length, or zeros."""
        raw = descriptors_of_boxes(image_rgb, boxes_xyxy, list(self.weights))
        return [whiten(vectors, self.maps.get(name)) for name, vectors in zip(self.weights, raw, strict=True)]

    def alone(self) -> dict[str, "Descriptors"]:
        """Each by itself, with a weight of 1."""
        return {name: Descriptors({name: 1.0}, self.maps, self.sha256) for name in self.weights}


def whiten(vectors: np.ndarray, linear_map: np.ndarray | None) -> np.ndarray:
    """(N, D) by a map (D, K), each row of unit length again: (N, K); without a map as they are.

    Row by row, of its values that are not 0, of which a histogram has few. A matrix product would give last bits that depend on
    the rows beside it, and start BLAS's threads beside those that embed.
    """
    if linear_map is None:
        return vectors
    mapped = np.zeros((len(vectors), linear_map.shape[1]), np.float32)
    for row, vector in zip(mapped, vectors, strict=True):
        bins = np.flatnonzero(vector)
        row[:] = (vector[bins, None] * linear_map[bins]).sum(axis=0)
    return unit_rows(mapped)


def fit_whitening(
    vectors: np.ndarray, products: np.ndarray, kinds: np.ndarray, shrinkage: float, values: int
) -> np.ndarray:
    """The map (D, min(values, D)) float32 that within-class covariance normalisation learns from boxes of known products.

    vectors (N, D) of unit length; products (N,), what each shows; kinds (N,), 'photo' or 'video'. S is the covariance around the
    mean of the own product, averaged over the products that have two boxes or more; in each, its photos together weigh as much as its
    video frames, where it has both. The map is (S + shrinkage * trace(S) / D * I)^(-1/2), turned so that its columns are
    sorted by falling energy (about 0) of the mapped boxes at unit length; the first are kept.

    Raises NothingToLearn where no product has two boxes that differ.
    """
    order = np.argsort(products, kind="stable")
    vectors, kinds = vectors[order].astype(np.float64), kinds[order]
    _, first, product = np.unique(products[order], return_index=True, return_inverse=True)
    shares = pd.DataFrame({"product": product, "kind": kinds}).assign(one=1.0)
    of_kind = shares.groupby(["product", "kind"]).one.transform("sum").to_numpy()
    n_kinds = shares.groupby("product").kind.transform("nunique").to_numpy()
    weights = 1 / (of_kind * n_kinds)  # (N,), 1 in sum for each product
    means = np.add.reduceat(weights[:, None] * vectors, first)  # (products, D)
    apart = np.sqrt(weights)[:, None] * (vectors - means[product])
    several = np.bincount(product) > 1
    dimension = vectors.shape[1]
    within = apart.T @ apart / max(several.sum(), 1)
    if not np.trace(within) > LEAST_VARIANCE:
        raise NothingToLearn("no product has two boxes that differ")
    within += shrinkage * np.trace(within) / dimension * np.eye(dimension)
    energies, axes = np.linalg.eigh(within)
    linear_map = (axes / np.sqrt(np.maximum(energies, LEAST_SHARE * energies[-1]))) @ axes.T
    mapped = unit_rows(vectors @ linear_map)
    turned = np.linalg.eigh(mapped.T @ mapped)[1][:, ::-1][:, :values]
    return (linear_map @ turned).astype(np.float32)


def whitening_of(settings: DescriptorSettings) -> Whitening | None:
    """The section `whitening`, None where no descriptor that it is for has a weight."""
    return settings.whitening if any(DESCRIPTORS[name].whitens for name in descriptor_weights(settings)) else None


def train_whitening(crops: pd.DataFrame, settings: Whitening, seed: int, max_pixels: int, folder: Path) -> None:
    """Fits the maps of all colour descriptors to training crops and saves them in <weights>/whitening.

    crops: as `cut_training_crops` gives them. max_pixels: of a picture. Raises UserError where they have no product with two boxes.
    """
    crops = _drawn(crops[crops["product"] > 0], seed)
    names = list(map_shapes(settings))
    vectors = {name: [] for name in names}
    with progress_bar(total=len(crops), title="whitening", unit="crop") as bar:
        for path, box in zip(crops.crop, crops[BOX].to_numpy(), strict=True):
            described = descriptors_of_boxes(read_picture(path, max_pixels), box[None], names)
            for name, vector in zip(names, described, strict=True):
                vectors[name].append(vector)
            bar.update()
    products, kinds = crops["product"].to_numpy(), crops.kind.to_numpy()
    try:
        maps = {
            name: fit_whitening(np.concatenate(vectors[name]), products, kinds, settings.shrinkage, settings.values)
            for name in names
        }
    except NothingToLearn as error:
        raise UserError(
            f"descriptors.whitening: {error}, nothing to learn from. Label a product in two pictures, or set it to null."
        ) from None
    save_whitening(folder, maps, settings, {"boxes": len(crops), "products": len(set(products))})
    log.info("%s: learnt from %d boxes of %d products", folder, len(crops), len(set(products)))


def save_whitening(folder: Path, maps: dict[str, np.ndarray], settings: Whitening, facts: dict) -> None:
    """maps: float32, of the shapes that `map_shapes` tells."""
    network = _network({name: torch.from_numpy(linear_map) for name, linear_map in maps.items()})
    save_weights(folder, network, {"kind": FOLDER, "architecture": architecture_of(settings), **facts})


def _drawn(crops: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The boxes of products in a random order of the products, the first MOST_BOXES of them."""
    products = crops["product"].unique()
    place = pd.Series(np.random.default_rng(seed).permutation(len(products)), index=products)
    order = np.argsort(crops["product"].map(place).to_numpy(), kind="stable")
    return crops.iloc[order[:MOST_BOXES]].reset_index(drop=True)


def architecture_of(settings: Whitening) -> dict:
    """What model.json says of the maps, and what a config must have alike."""
    return {**settings.model_dump(), "lengths": {name: length for name, (length, _) in map_shapes(settings).items()}}


def map_shapes(settings: Whitening) -> dict[str, tuple[int, int]]:
    """Of every descriptor that is whitened: its length, and how many values its map gives."""
    lengths = {name: descriptor.length for name, descriptor in DESCRIPTORS.items() if descriptor.whitens}
    return {name: (length, min(settings.values, length)) for name, length in lengths.items()}


def read_whitening(settings: DescriptorSettings, weights: Path) -> dict | None:
    """model.json of the whitening, None where the config has none. Raises UserError where config and training differ."""
    configured = whitening_of(settings)
    if configured is None:
        return None
    if not (weights / FOLDER / "model.json").is_file():
        raise UserError(
            f"{weights / FOLDER}: no whitening here (no model.json), and descriptors.whitening of the config wants one. Run "
            "`bash run.sh train` with this config, or set descriptors.whitening to null."
        )
    description = read_description(weights / FOLDER)
    refuse_other_architecture(weights / FOLDER, description["architecture"], architecture_of(configured), set())
    return description


def load_descriptors(settings: DescriptorSettings, weights: Path) -> Descriptors:
    """The config's descriptors, ready. Raises UserError where their whitening is missing, damaged or of other settings."""
    wanted = descriptor_weights(settings)
    description = read_whitening(settings, weights)
    if description is None:
        return Descriptors(wanted)
    network = _network({name: torch.empty(shape) for name, shape in map_shapes(settings.whitening).items()})
    load_weights(weights / FOLDER, network)
    maps = {name: linear_map.numpy() for name, linear_map in network.named_buffers() if name in wanted}
    for name, linear_map in maps.items():
        if not np.isfinite(linear_map).all():
            raise UserError(f"{weights / FOLDER / 'weights.safetensors'}: {name}: expected finite numbers. Train again or restore the file.")
    return Descriptors(wanted, maps, description["sha256"])


def _network(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    network = torch.nn.Module()
    for name, tensor in tensors.items():
        network.register_buffer(name, tensor)
    return network
