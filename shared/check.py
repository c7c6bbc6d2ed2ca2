"""Looks through a data set before anyone trains on it: `python -m shared.check --data D`.

Prints a table of what is there and every fault found; exits 1 if there is one.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from shared.boxes import clip_boxes
from shared.cli import config_of, parse_options, run_entry
from shared.config import Data
from shared.dataset import annotation_path, coco_files, read_dataset
from shared.media import MediaError
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.tables import BOX, SINGLE_PART, Dataset

OVERRUN_PX = 2  # labels may pass the picture's edge by rounding; more means that they belong to another picture


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Look through a data set.", argv)
    dataset = read_dataset(options.data)
    sizes, faults = read_all(dataset, config_of(options).data)
    faults += dataset.problems + misplaced_labels(dataset, sizes)
    if not coco_files(options.data):
        faults += orphans(options.data, dataset)
    print(table_of(dataset, faults))
    for path, fault in faults:
        print(f"{path}: {fault}")
    sys.exit(1 if faults else 0)


def read_all(dataset: Dataset, limits: Data) -> tuple[dict[str, tuple[int, int, int]], list[tuple[str, str]]]:
    """Every photo decoded, every video's first frame and packets: media_id -> (width, height, n_frames), and the faults."""
    sizes, faults = {}, []
    with progress_bar(total=len(dataset.media), title="check", unit="file") as bar, open_reader(limits) as reader:
        for row in dataset.media.itertuples():
            try:
                if row.kind == "photo":
                    height, width = reader.photo(row.path).shape[:2]
                    sizes[row.media_id] = width, height, 1
                else:
                    info = reader.probe_video(row.path)
                    sizes[row.media_id] = info.width, info.height, info.n_frames
            except MediaError as error:
                faults.append((row.path, str(error)))
            bar.update()
    return sizes, faults


def misplaced_labels(dataset: Dataset, sizes: dict[str, tuple[int, int, int]]) -> list[tuple[str, str]]:
    """Labelled boxes that pass their picture's edge by more than OVERRUN_PX, and labelled frames that the video does not have."""
    paths = dataset.media.set_index("media_id").path
    faults = [
        (paths[row.media_id], f"frame {row.frame_index} is labelled, the video has {sizes[row.media_id][2]}")
        for row in dataset.labelled.itertuples()
        if row.media_id in sizes and not 0 <= row.frame_index < sizes[row.media_id][2]
    ]
    labels = dataset.labels[dataset.labels.media_id.isin(list(sizes))]
    boxes = labels[BOX].to_numpy()
    width, height = np.array([sizes[media_id][:2] for media_id in labels.media_id], np.float32).reshape(-1, 2).T
    overrun = abs(boxes - clip_boxes(boxes, width, height)).max(axis=1, initial=0) > OVERRUN_PX
    for row in labels[overrun].itertuples():
        size = sizes[row.media_id][:2]
        faults.append(
            (
                paths[row.media_id],
                f"frame {row.frame_index}: box {[row.x1, row.y1, row.x2, row.y2]} leaves the picture of {size[0]} x {size[1]}",
            )
        )
    return faults


def orphans(root: Path, dataset: Dataset) -> list[tuple[str, str]]:
    """Annotation files that belong to no photo or video."""
    known = {annotation_path(root, row.media_id, row.part) for row in dataset.media.itertuples()}
    folders = [root if part == SINGLE_PART else root / part for part in sorted(set(dataset.media.part))]
    found = [
        path
        for folder in folders
        for kind in ("image", "video")
        for path in sorted((folder / f"{kind}_annotation").rglob("*.json"))
    ]
    return [(str(path), "no photo or video belongs to this annotation") for path in found if path not in known]


def table_of(dataset: Dataset, faults: list[tuple[str, str]]) -> str:
    """The counts, part by part and in all, and the labels."""
    part_of = dataset.media.set_index("media_id")["part"]
    rows = {}
    for name, dataset_part in [
        *((part, dataset.of_media(dataset.media.part == part)) for part in sorted(set(dataset.media.part))),
        ("all", dataset),
    ]:
        media, labels = dataset_part.media, dataset_part.labels
        photos, videos = media[media.kind == "photo"], media[media.kind == "video"]
        rows[name] = {
            "items": photos.item_id.nunique(),
            "photos": len(photos),
            "videos": len(videos),
            "items with video": len(set(photos.item_id) & set(videos.item_id)),
            "labelled photos": int(dataset_part.labelled.media_id.isin(photos.media_id).sum()),
            "labelled frames": int(dataset_part.labelled.media_id.isin(videos.media_id).sum()),
            "boxes": len(labels),
            "of products": int((labels.instance_id > 0).sum()),
        }
    if len(part_of.unique()) == 1:
        rows = {"all": rows["all"]}
    labels = ", ".join(f"{label} {count}" for label, count in Counter(dataset.labels.label).most_common())
    return f"{pd.DataFrame(rows).to_string()}\nlabels: {labels or 'none'}\nfaults: {len(faults)}"


if __name__ == "__main__":
    run_entry(main)
