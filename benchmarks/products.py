"""Products in plain folders: queries against catalogue photos, with look-alikes in the gallery and without.

    python -m benchmarks.products --folder DIR --weights W [--config C] [--items items.json --part test] > products.json

DIR/<product>/ holds pictures named catalogue-*, query-*, distractor-*. The gallery is every catalogue picture, and once also
every distractor; queries are every query picture. --items names the items.json of a data set that was made from these
folders: products of a style that has an item outside of the parts named by --part are no queries, since the models may have
been trained on them; they stay in the gallery. Names of products of one style agree up to their last hyphen.

A query's kind is what follows the last underscore of its name. Every picture gives one box, the same for the embedders and
for the colour histogram beside them: what differs from white paper, or all of it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from metric_sub.evaluate import FIGURES, RECALL_AT, Crops, retrieval_figures
from metric_sub.histogram import histograms
from metric_sub.vectors import join_models, load_models
from shared.cli import config_of, parse_options, run_entry, use_threads
from shared.config import Config
from shared.errors import UserError
from shared.frames import read_picture
from shared.progress import progress_bar
from shared.runtime import choose_runtime

ROLES = ("catalogue", "query", "distractor")
VIEWS = {"alt1": "close-up", "alternate": "close-up"}  # other names of views, as the Magento sample data has them
NUMBERED = "numbered"  # the kind of a query whose name ends in a number
PAPER = 240  # a pixel is of the paper where red, green and blue are that bright or brighter
LEAST_PIXELS = 0.005  # of a row or column that are not paper, for the box to reach it: specks do not stretch it


def main(argv: list[str] | None = None) -> None:
    options = parse_options(
        "Judge embedders by products in plain folders.",
        argv,
        ("--folder", "a folder per product, with catalogue-*, query-* and distractor-* pictures"),
        ("--items", "items.json of a data set made from these folders"),
        ("--part", "a part of that data set that nothing was trained on (again for more)", {"action": "append"}),
    )
    if options.folder is None or (options.items is None) != (options.part is None):
        raise UserError("bench products: expected --folder DIR, and --items FILE only together with --part NAME.")
    config = config_of(options)
    use_threads(config.threads)
    pictures = read_folders(options.folder)
    asked = (pictures.role == "query") & pictures["product"].isin(pictures["product"][pictures.role == "catalogue"])
    if options.items:
        asked &= ~pictures["product"].map(style_of).isin(styles_outside(options.items, options.part))
    asked = asked.to_numpy()
    if not asked.any():
        raise UserError(
            f"{options.folder}: no query-* picture of a product that has a catalogue-* picture is left to ask."
        )
    vectors = describe(pictures, config, options.weights)
    figures = {
        "folder": str(options.folder),
        "queries": int(asked.sum()),
        "products": int(pictures["product"][asked].nunique()),
        "catalogue": int((pictures.role == "catalogue").sum()),
        "distractors": int((pictures.role == "distractor").sum()),
        **{name: figures_of(of_model, pictures, asked) for name, of_model in vectors.items()},
    }
    print(figures_table(figures, list(vectors)), file=sys.stderr)
    print(json.dumps(figures, indent=1, ensure_ascii=False))


def read_folders(folder: Path) -> pd.DataFrame:
    """A row per picture: product (its folder), role, kind (of a query, else ''), path; by path.

    Raises UserError for a folder that has none, and for a picture of another name.
    """
    rows = []
    for path in sorted(folder.glob("*/*")):
        role = path.name.partition("-")[0]
        if role not in ROLES:
            raise UserError(f"{path}: expected a name that begins with {', '.join(f'{role}-' for role in ROLES)}.")
        rows.append((path.parent.name, role, kind_of(path.stem) if role == "query" else "", str(path)))
    if not rows:
        raise UserError(f"{folder}: no picture; expected <product>/catalogue-*, query-* and distractor-* in it.")
    return pd.DataFrame(rows, columns=["product", "role", "kind", "path"])


def kind_of(stem: str) -> str:
    """The view that a query's name ends in: query-mh02-black_back -> back."""
    view = stem.rpartition("_")[2]
    return NUMBERED if view.isdigit() else VIEWS.get(view, view)


def style_of(product: str) -> str:
    """mh02-black -> mh02; a name without a hyphen is a style of its own."""
    return product.rpartition("-")[0] or product


def styles_outside(items: Path, parts: list[str]) -> set[str]:
    """The styles of the items that are in none of these parts. Raises UserError for a file that is no list of items."""
    try:
        entries = json.loads(items.read_text(encoding="utf-8"))
        known = {entry["part"] for entry in entries}
        outside = {style_of(entry["name"]) for entry in entries if entry["part"] not in parts}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{items}: expected a list of objects with part and name ({type(error).__name__}: {error})."
        ) from None
    if unknown := sorted(set(parts) - known):
        raise UserError(f"--part: {items} has no part {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return outside


def product_box(image_rgb: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 (1, 4) of what is not white paper; the whole picture where all or nothing is."""
    ink = (image_rgb < PAPER).any(axis=2)  # (H, W)
    columns, rows = (np.flatnonzero(ink.mean(axis=axis) > LEAST_PIXELS) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return np.float32([[0, 0, image_rgb.shape[1], image_rgb.shape[0]]])
    return np.float32([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]])


def describe(pictures: pd.DataFrame, config: Config, weights: Path) -> dict[str, np.ndarray]:
    """Vectors (N, D) of the pictures' boxes: of the ensemble, of each of several models and descriptors, and of the colour histogram."""
    models, colours = load_models(config, weights, choose_runtime(config.runtime)), []
    with progress_bar(total=len(pictures), title="products", unit="picture") as bar:
        for path in pictures.path:
            image_rgb = read_picture(path, config.data.max_pixels)
            box = product_box(image_rgb)
            colours.append(histograms(image_rgb, box))
            for model in models.values():
                model.add(image_rgb, box)
            bar.update()
    vectors = {name: model.take() for name, model in models.items()}
    ensemble = join_models(vectors, config)
    return {"ensemble": ensemble, **(vectors if len(vectors) > 1 else {}), "histogram": np.concatenate(colours)}


def figures_of(vectors: np.ndarray, pictures: pd.DataFrame, asked: np.ndarray) -> dict:
    """{with_distractors, without_distractors}: `evaluate.retrieval_figures` against either gallery, by kind of query."""
    crops = Crops(vectors, pictures["product"].to_numpy())
    kinds = pictures.kind.to_numpy()[asked]
    catalogue, distractor = ((pictures.role == role).to_numpy() for role in ("catalogue", "distractor"))
    return {
        "with_distractors": retrieval_figures(crops.of(asked), crops.of(catalogue | distractor), kinds),
        "without_distractors": retrieval_figures(crops.of(asked), crops.of(catalogue), kinds),
    }


def figures_table(figures: dict, names: list[str]) -> str:
    """The figures as lines of text, a row per vectors and kind of query."""
    columns = [*(f"recall@{k}" for k in RECALL_AT), "mAP@R"]
    width = max(map(len, names)) + 2
    lines = [
        f"{figures['queries']} queries of {figures['products']} products; gallery: {figures['catalogue']} catalogue pictures; "
        f"* and {figures['distractors']} distractors",
        f"{'':<{width}}{'kind':<14}{'queries':>8}"
        + "".join(f"{name:>11}" for name in [*columns, *(f"{c}*" for c in columns)]),
    ]
    for name in names:
        galleries = [figures[name][key] for key in ("without_distractors", "with_distractors")]
        kinds = list(galleries[0]["by_kind"])
        for kind in ("all", *(kinds if len(kinds) > 1 else ())):
            of_kind = [gallery if kind == "all" else gallery["by_kind"][kind] for gallery in galleries]
            values = "".join(f"{gallery[key]:>11.3f}" for gallery in of_kind for key in FIGURES)
            lines.append(f"{name:<{width}}{kind:<14}{of_kind[0]['queries']:>8}{values}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry(main)
