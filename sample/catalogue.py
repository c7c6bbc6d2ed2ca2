"""Plans the data set: which items there are, who is whose sibling, which part they stand in and what their video shows."""

from dataclasses import dataclass, replace

import numpy as np

from sample.colours import Scheme, draw_scheme
from sample.difficulty import Difficulty
from sample.prints import KINDS as PRINTS
from sample.prints import Print
from sample.products import Product
from sample.shapes import CATEGORIES
from sample.textures import KINDS as TEXTURES
from sample.textures import QUIET, Texture

PARTS = {"train": ("01", 0.7), "validation": ("04", 0.1), "test": ("07", 0.2)}  # an id's first two digits, the part's share of the items
FAMILY_KINDS = ("colour-sibling", "print-sibling", "texture-sibling")
MOST_ITEMS = 6000  # so that the ids of items (up to 4999 in a part) and those of videos without item (from 5001) do not meet
_ALIKE = ("knit", "bars")  # look much like plain and stripes: not told apart well enough to make siblings
_SMALL_PRINT = ("trousers", "shorts", "shoe")  # no print-siblings of these: their print is small or half covered


@dataclass(frozen=True)
class Item:
    """One folder of photos, one video, or both. number: unique in the data set, seeds all that is drawn for it.

    item_id is '' for a video without item (kind N), video_id is '' for an item without video (kind D). product is None where a video shows
    only distractors. extras: other products that may stand in the video's scene.
    """

    number: int
    part: str
    kind: str
    name: str
    item_id: str
    video_id: str
    family: int
    product: Product | None
    extras: tuple[Product, ...]

    @property
    def instance_id(self) -> int:
        """'2', the item's last five digits, '01'; 0 for what is in no folder."""
        return int(f"2{self.item_id[1:]}01") if self.item_id else 0


def plan_items(n_items: int, seed: int, difficulty: Difficulty) -> list[Item]:
    """All items, then all videos without item, part by part; the same for the same arguments. n_items counts the items alone."""
    rng = np.random.default_rng([seed])
    schemes = [draw_scheme(rng) for _ in range(difficulty.n_schemes)]
    sizes = {part: round(n_items * share) for part, (_, share) in PARTS.items() if part != "test"}
    sizes["test"] = n_items - sum(sizes.values())
    items: list[Item] = []
    family = 0
    for part, size in sizes.items():
        prefix = PARTS[part][0]
        members: list[tuple[int, str, str, Product]] = []
        while len(members) < size:
            kind, products = _draw_family(rng, schemes, size - len(members), difficulty)
            family += 1
            members += [
                (family, kind, f"f{family:03d}-{product.category.lower()}-{letter}", product) for letter, product in zip("abcdefgh", products, strict=False)
            ]
        without_video = set(rng.permutation(size)[: round(size * difficulty.catalogue_only)].tolist())
        for i, (number, kind, name, product) in enumerate(members):
            item_id = f"{prefix}{i + 1:04d}"
            strangers = [other for other_family, _, _, other in members if other_family != number]
            items.append(
                Item(
                    0,
                    part,
                    "D" if i in without_video else kind,
                    name,
                    item_id,
                    "" if i in without_video else item_id,
                    number,
                    product,
                    _extras(rng, schemes, strangers, difficulty),
                )
            )
        for i in range(max(1, round((size - len(without_video)) * difficulty.videos_without_item))):
            family += 1
            shown = draw_product_spec(rng, schemes) if i % 2 == 0 else None
            strangers = [other for _, _, _, other in members]
            items.append(Item(0, part, "N", "no item", "", f"{prefix}{5001 + i:04d}", family, shown, _extras(rng, schemes, strangers, difficulty)))
    items.sort(key=lambda item: item.kind == "N")
    return [replace(item, number=number) for number, item in enumerate(items)]


def draw_product_spec(rng: np.random.Generator, schemes: list[Scheme]) -> Product:
    """Any product: category, shape, texture, and in most cases a print."""
    category = str(rng.choice(list(CATEGORIES)))
    texture = Texture(str(rng.choice(TEXTURES)), _seed(rng))
    motif = Print(str(rng.choice(PRINTS)), _seed(rng)) if rng.uniform() < 0.65 else None
    return _plated(Product(category, _seed(rng), schemes[rng.integers(len(schemes))], texture, motif, bool(rng.uniform() < 0.4)))


def _draw_family(rng: np.random.Generator, schemes: list[Scheme], room: int, difficulty: Difficulty) -> tuple[str, list[Product]]:
    """A kind and one to `room` products: alone (plain), or siblings that share all but their colours, their print or their texture."""
    first = draw_product_spec(rng, schemes)
    low, high = difficulty.family_size
    mean, plain = (low + high) / 2, difficulty.plain
    alone = rng.uniform() < plain * mean / (1 - plain + plain * mean)  # the share of families that makes `plain` the share of items
    size = min(int(rng.integers(low, high + 1)), room)
    kind = str(rng.choice(FAMILY_KINDS, p=np.array(difficulty.family_kinds) / sum(difficulty.family_kinds)))
    if alone or size < 2:
        return "plain", [first]
    if kind == "colour-sibling":
        if first.print is None and first.texture.kind in QUIET:
            first = replace(first, print=Print(str(rng.choice(PRINTS)), _seed(rng)))
        return kind, [replace(first, scheme=scheme) for scheme in _other_schemes(rng, first.scheme, schemes, size, difficulty)]
    if kind == "print-sibling":
        if first.category in _SMALL_PRINT:
            others = [category for category in CATEGORIES if category not in _SMALL_PRINT]
            first = replace(first, category=str(rng.choice(others)))
        texture = first.texture if rng.uniform() < 0.3 else Texture(str(rng.choice(QUIET)), _seed(rng))
        motifs = [Print(str(name), _seed(rng)) for name in rng.permutation(PRINTS)[:size]]
        return kind, [_plated(replace(first, texture=texture, print=motif)) for motif in motifs]
    names = [str(name) for name in rng.permutation([name for name in TEXTURES if name not in _ALIKE])[:size]]
    motif = first.print if rng.uniform() < 0.5 else None
    motif = replace(motif, plate=True) if motif else None
    seed = _seed(rng)
    return kind, [replace(first, texture=Texture(name, seed), print=motif) for name in names]


def _other_schemes(rng: np.random.Generator, first: Scheme, schemes: list[Scheme], size: int, difficulty: Difficulty) -> list[Scheme]:
    """`size` different schemes, `first` included; some are its own colours in other places."""
    chosen = [first]
    if rng.uniform() < difficulty.colours_swapped:
        chosen.append(first.swapped())
    others = [schemes[i] for i in rng.permutation(len(schemes))] + [scheme.swapped() for scheme in schemes]
    for scheme in others:
        if len(chosen) < size and all(scheme.base != other.base for other in chosen):
            chosen.append(scheme)
    while len(chosen) < size:
        chosen.append(draw_scheme(rng))
    return chosen[:size]


def _plated(product: Product) -> Product:
    """The print lies on a plain disc where the fabric is too busy for it."""
    if product.print is None:
        return product
    return replace(product, print=replace(product.print, plate=product.texture.kind not in QUIET))


def _extras(rng: np.random.Generator, schemes: list[Scheme], strangers: list[Product], difficulty: Difficulty) -> tuple[Product, ...]:
    """Enough other products for a scene: of other families of the part, or of no folder."""
    extras = []
    for _ in range(difficulty.distractors[1] + 1):
        known = strangers and rng.uniform() < difficulty.distractor_from_catalogue
        extras.append(strangers[rng.integers(len(strangers))] if known else draw_product_spec(rng, schemes))
    return tuple(extras)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 31))
