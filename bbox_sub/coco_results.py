"""Writes what was detected as COCO results, for other tools: `python -m bbox_sub.coco_results --work W --out FILE`.

FILE is a list of {image_id, category_id, bbox [x, y, width, height], score} (https://cocodataset.org/#format-results). With
`--data` of a COCO file the ids are that file's. Without, ids are made, and <name>.images.json beside FILE tells the images
and categories, which pycocotools' loadRes needs.
"""

import argparse
import logging
from pathlib import Path

import pandas as pd

from shared.catalogue import COLUMNS as MEDIA
from shared.cli import DEFAULT_CONFIG, run_entry
from shared.coco import CocoFile, read_coco_file
from shared.config import load_config
from shared.dataset import coco_files
from shared.errors import UserError
from shared.files import write_json
from shared.lock import held
from shared.tables import DETECTION_COLUMNS
from shared.work import Step, read_step

log = logging.getLogger("export-coco")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write detections as COCO results.", allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path("work"), help="the work folder of infer (default: work)")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--data", type=Path, help="a COCO file, whose ids are taken (default: ids are made)")
    options = parser.parse_args(argv)
    if not options.work.is_dir():
        raise UserError(f"{options.work}: no such work folder. Run `bash run.sh infer --stage detect` first.")
    file = one_coco_file(options.data, max_coco_bytes(options.work)) if options.data else None
    for path in (options.out, *([] if file else [images_path(options.out)])):
        if path.exists():
            raise UserError(f"{path}: is there already. Move it away, or name another --out.")
    with held(options.work, shared=True):
        steps = [read_step(options.work / "detections" / kind) for kind in ("photos", "videos")]
        detections = pd.concat([step.table("table", DETECTION_COLUMNS) for step in steps], ignore_index=True)
        if file:
            results = results_by_file(detections, file)
        else:
            images = searched_images(read_step(options.work / "media").table("table", MEDIA), *steps)
            categories = categories_of(steps[0])
            results = results_by_made_ids(detections, images, categories, options.work / "detections")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if not file:
            about = {"info": {"description": "what vid2shop searched"}, "images": images, "annotations": []}
            write_json(images_path(options.out), {**about, "categories": categories})
        write_json(options.out, results)
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written ({error.strerror}). Name another --out.") from None
    log.info("%s: %d boxes", options.out, len(results))


def images_path(out: Path) -> Path:
    """Where the images and categories of results with made ids stand: detections.json -> detections.images.json."""
    return out.with_name(f"{out.stem}.images.json")


def max_coco_bytes(work: Path) -> int:
    """The limit by which the run was made, in whose config it stands."""
    made_with = work / "config.yaml"
    return load_config(made_with if made_with.is_file() else DEFAULT_CONFIG).data.max_coco_bytes


def one_coco_file(data: Path, max_bytes: int) -> CocoFile:
    """The COCO file that `data` is or holds. Raises UserError where it is none or several, or does not fit in some place."""
    files = coco_files(data)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise UserError(f"{data}: expected one COCO file, whose ids the results get, found {found}. Name one, or none.")
    file = read_coco_file(files[0], max_bytes)
    if faults := [fault for _, fault in file.lost] + file.problems:
        raise UserError(f"{file.path}: {len(faults)} entries do not fit, for example {faults[0]}. Mend it.")
    return file


def results_by_file(detections: pd.DataFrame, file: CocoFile) -> list[dict]:
    """The detections in the file's pictures with its ids; those in other pictures are left out, and counted in the log.

    Categories go by name. The boxes of a detector of one category, where the file has none of that name, get the file's
    lowest category_id (pycocotools looks at no other ids, even where it disregards categories). Raises UserError for another
    category that the file lacks, and where the file has none of the pictures.
    """
    folder = file.path.parent
    image_ids = {path.relative_to(folder).as_posix(): image_id for image_id, path in file.pictures.items()}
    inside = detections[detections.media_id.isin(image_ids.keys())]
    if len(detections) and not len(inside):
        raise UserError(
            f"{file.path}: none of its pictures was searched; expected such as {detections.media_id.iloc[0]}, found "
            f"{next(iter(image_ids), 'none')}. Name the data that the work folder was made from."
        )
    if len(inside) < len(detections):
        log.warning("%d boxes in pictures that %s does not have are left out", len(detections) - len(inside), file.path)
    category_ids = {name: category_id for category_id, name in file.categories.items()}
    unknown = sorted(set(inside.category) - category_ids.keys())
    if unknown and (inside.category.nunique() > 1 or not category_ids):
        there = ", ".join(category_ids) or "none"
        raise UserError(
            f"{file.path}: expected the category {unknown[0]!r}, found {there}. Add it there, or leave --data out."
        )
    if unknown:
        category_ids[unknown[0]] = min(category_ids.values())
    if unknown and len(file.categories) > 1:
        log.warning(
            "%s has no category %r: all boxes get the category_id %d. Compare them without regard to categories "
            "(pycocotools: params.useCats = 0)",
            file.path,
            unknown[0],
            category_ids[unknown[0]],
        )
    return coco_results(inside, inside.media_id.map(image_ids), inside.category.map(category_ids))


def searched_images(media: pd.DataFrame, photos: Step, videos: Step) -> list[dict]:
    """COCO's images: one per photo and per frame that was searched, by media_id and frame; file_name is the media_id.

    A frame also has its frame_index. media: the table of the step media/; photos, videos: the finished steps of detections/.
    """
    skipped = {entry["media_id"] for step in (photos, videos) for entry in step.manifest["skipped"]}
    frames = _list_of(videos, int, "frames")
    images = []
    for row in media[~media.media_id.isin(skipped)].sort_values("media_id").itertuples():
        size = {"file_name": row.media_id, "width": row.width, "height": row.height}
        if row.kind == "photo":
            images.append({"id": len(images) + 1, **size})
        else:
            for index in frames:
                if index < row.n_frames:
                    images.append({"id": len(images) + 1, **size, "frame_index": index})
    return images


def _list_of(step: Step, kind: type, *keys: str) -> list:
    """What a step was made with, a list. Raises UserError where it is none of that kind."""
    found = step.depends_on(*keys)
    if not isinstance(found, list) or not all(isinstance(value, kind) for value in found):
        raise UserError(f"{step.folder}: {'.'.join(keys)}: expected a list of {kind.__name__}, found {found!r:.80}. Run infer again.")
    return found


def categories_of(step: Step) -> list[dict]:
    """COCO's categories: those of the detector that filled the step, from 1."""
    names = _list_of(step, str, "architecture", "categories")
    return [{"id": number, "name": name} for number, name in enumerate(names, 1)]


def results_by_made_ids(detections: pd.DataFrame, images: list[dict], categories: list[dict], folder: Path) -> list[dict]:
    """The detections, read from `folder`, with the ids of `searched_images` and `categories_of`. Raises UserError where these lack one."""
    image_ids = {(image["file_name"], image.get("frame_index", 0)): image["id"] for image in images}
    keys = zip(detections.media_id, detections.frame_index, strict=True)
    category_ids = {category["name"]: category["id"] for category in categories}
    keys = list(keys)
    strange = [media_id for media_id, index in keys if (media_id, index) not in image_ids]
    strange += sorted(set(detections.category) - category_ids.keys(), key=str)
    if strange:
        raise UserError(f"{folder}: its tables tell of {strange[0]!r:.200}, which was not searched, or not for. Run infer again.")
    return coco_results(detections, [image_ids[key] for key in keys], detections.category.map(category_ids))


def coco_results(detections: pd.DataFrame, image_ids: list[int], category_ids: list[int]) -> list[dict]:
    """COCO results, by image and falling score. detections: x1, y1, x2, y2, score."""
    rows = [
        {
            "image_id": int(image_id),
            "category_id": int(category_id),
            "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
            "score": row.score,
        }
        for row, image_id, category_id in zip(detections.itertuples(), image_ids, category_ids, strict=True)
    ]
    return sorted(rows, key=lambda row: (row["image_id"], -row["score"]))


if __name__ == "__main__":
    run_entry(main)
