"""Looks through a data set before anyone trains on it: `python -m shared.check --data D`.

Prints a table of what is there and every fault found; exits 1 if there is one.
"""

import sys
from collections import Counter

import pandas as pd

from shared.cli import config_of, parse_options, run_entry
from shared.config import Config, Data
from shared.dataset import read_dataset
from shared.fit import misplaced_labels, problems_of_media
from shared.frames import ask_labelled, lacking
from shared.media import MediaError
from shared.progress import progress_bar
from shared.reader import open_reader
from shared.tables import Dataset, Problem


def main(argv: list[str] | None = None) -> None:
    options = parse_options("Look through a data set.", argv)
    config = config_of(options)
    dataset = read_dataset(options.data, config.data)
    sizes, faults = read_all(dataset, config.data)
    misplaced = misplaced_labels(dataset, sizes)
    faults += zip(misplaced.media_id, misplaced.fault, strict=True)
    problems = dataset.problems + problems_of_media(dataset, faults) + unknown_labels(dataset, config)
    print(table_of(dataset, problems))
    for problem in problems:
        print(f"{problem.path}: {problem.fault}")
    sys.exit(1 if problems else 0)


def read_all(dataset: Dataset, limits: Data) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Decodes every photo, every labelled frame, and of a video without labels the first frame and the packets.

    Gives media_id, frame_index, width, height of all labelled pictures that can be read, and (media_id, fault) of what cannot.
    """
    sizes, faults = [], []
    labelled = dataset.labelled.groupby("media_id").frame_index.apply(list).to_dict()
    with progress_bar(total=len(dataset.media), title="check", unit="file") as bar, open_reader(limits) as reader:
        for row in dataset.media.itertuples():
            wanted = labelled.get(row.media_id, [0] if row.kind == "photo" else [])
            missing = set(wanted)
            try:
                if not wanted:
                    reader.probe_video(row.path)
                for index, image_rgb in ask_labelled(reader, row, wanted) if wanted else ():
                    sizes.append((row.media_id, index, image_rgb.shape[1], image_rgb.shape[0]))
                    missing.discard(index)
                if missing:
                    faults.append((row.media_id, lacking(missing)))
            except MediaError as error:
                faults.append((row.media_id, str(error)))
            bar.update()
    sizes = pd.DataFrame(sizes, columns=["media_id", "frame_index", "width", "height"])
    return sizes.astype({"media_id": "str"}), faults


def unknown_labels(dataset: Dataset, config: Config) -> list[Problem]:
    """Labels that a detector of several categories lacks: no training can begin with them."""
    categories, aliases = config.detector.categories, config.data.label_aliases
    names = set(dataset.labels.label.map(lambda label: aliases.get(label, label)))
    return [
        Problem(f"label {name!r}", "is not in detector.categories; add it there or under data.label_aliases", ".")
        for name in sorted(names - set(categories))
        if len(categories) > 1
    ]


def table_of(dataset: Dataset, faults: list[Problem]) -> str:
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
