"""Writes the data set: folders, pictures, videos and annotations."""

import hashlib
import json
import multiprocessing
import shutil
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from sample.catalogue import MOST_ITEMS, PARTS, Item, plan_items
from sample.difficulty import Difficulty
from sample.photos import SPRITE_SIZE, photo_scenes
from sample.products import BACK, FRONT, draw_product
from sample.scene import Scene, annotations, render
from sample.videos import FPS, LABELLED_EVERY, video_scene
from shared.errors import UserError
from shared.files import write_text, write_whole
from shared.progress import progress_bar

MANIFEST = "sample.json"
FEWEST_ITEMS = 10
JPEG_QUALITY = 92
FOLDERS = ("image", "image_annotation", "image_text", "video", "video_annotation", "video_text")


@dataclass(frozen=True)
class Settings:
    """What the data set depends on; the number of workers is not among it."""

    items: int = 40
    seed: int = 0
    frames: int = 200
    difficulty: Difficulty = Difficulty()


def write_dataset(root: Path, settings: Settings, workers: int = 1) -> None:
    """Draws the whole data set into `root`. What an interrupted run of the same settings finished is kept.

    The same settings give the same bytes, however many workers share the work. Raises UserError for settings out of range, and where `root`
    holds files that are not a sample.
    """
    for key, value, low, high in (
        ("--items", settings.items, FEWEST_ITEMS, MOST_ITEMS),
        ("--frames", settings.frames, 1, 100_000),
        ("--seed", settings.seed, 0, 2**63),
        ("--workers", workers, 1, 1024),
    ):
        if not low <= value <= high:
            raise UserError(f"{key} {value}: expected {low} to {high}.")
    _claim(root, settings)
    items = plan_items(settings.items, settings.seed, settings.difficulty)
    for part in PARTS:
        for folder in FOLDERS:
            (root / part / folder).mkdir(parents=True, exist_ok=True)
    missing = [item for item in items if not _last_file(root, item).is_file()]
    with progress_bar(total=len(items), title="drawing", unit="item", done=len(items) - len(missing)) as bar:
        for _ in _each(root, missing, settings, workers):
            bar.update()
    write_text(root / "items.json", "[\n" + ",\n".join(json.dumps(_entry(item), indent=0) for item in items) + "\n]")


def write_item(root: Path, item: Item, settings: Settings) -> None:
    """Draws one item: its photos, its video, or both. All chance comes from the data set's seed and the item's number."""
    rng = np.random.default_rng([settings.seed, item.number])
    if item.item_id:
        sprites = [draw_product(item.product, view, SPRITE_SIZE) for view in (FRONT, BACK)]
        scenes = photo_scenes(rng, item.product, item.instance_id, *sprites, settings.difficulty)
        _write_photos(root / item.part, item, scenes)
    if item.video_id:
        scene = video_scene(rng, item.product, item.extras, item.instance_id, settings.frames, settings.difficulty)
        _write_video(root / item.part, item, scene, settings.difficulty.crf)


def encode_video(path: Path, frames: Iterable[np.ndarray], width: int, height: int, crf: int) -> None:
    """H.264 in yuv420p at FPS from image_rgb frames of even sides; the same frames give the same video."""
    # x264's macroblock tree with B-frames decides differently from run to run, even on one thread: without it.
    options = {"preset": "veryfast", "crf": str(crf), "threads": "1", "x264-params": "subme=1:mbtree=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in frames:
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def _each(root: Path, items: list[Item], settings: Settings, workers: int) -> Iterator[None]:
    """Writes the items, here or in `workers` processes; yields after each."""
    if workers == 1 or len(items) < 2:
        for item in items:
            yield write_item(root, item, settings)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used OpenCV's threads may hang
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        tasks = [pool.submit(write_item, root, item, settings) for item in items]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except BaseException:
            for task in tasks:
                task.cancel()
            raise


def _start_worker() -> None:
    """One thread for each process; Ctrl-C is left to the process that waits for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _write_photos(part: Path, item: Item, scenes: list[Scene]) -> None:
    for folder in ("image", "image_annotation"):
        (part / folder / item.item_id).mkdir(exist_ok=True)
    for number, scene in enumerate(scenes):
        picture = cv2.cvtColor(render(scene, 0), cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        path = part / "image" / item.item_id / f"{number}.jpg"
        write_whole(path, lambda beside, jpeg=jpeg: beside.write_bytes(jpeg.tobytes()))
        content = {"item_id": item.item_id, "img_name": f"{number}.jpg", "annotations": annotations(scene, 0)}
        write_text(part / "image_annotation" / item.item_id / f"{number}.json", json.dumps(content))
    write_text(part / "image_text" / f"{item.item_id}.txt", item.product.describe())


def _write_video(part: Path, item: Item, scene: Scene, crf: int) -> None:
    pictures = (render(scene, i) for i in range(scene.n_frames))
    write_whole(
        part / "video" / f"{item.video_id}.mp4",
        lambda beside: encode_video(beside, pictures, scene.width, scene.height, crf),
    )
    frames = [{"frame_index": i, "annotations": annotations(scene, i)} for i in range(0, scene.n_frames, LABELLED_EVERY)]
    write_text(part / "video_annotation" / f"{item.video_id}.json", json.dumps({"video_id": item.video_id, "frames": frames}))
    write_text(
        part / "video_text" / f"{item.video_id}.txt",
        f"today we look at this {item.product.category}" if item.product else "hello everybody, we begin in a minute",
    )


def _entry(item: Item) -> dict:
    """The item's object in items.json; a video without item has an empty item_id and its video_id."""
    entry = {"part": item.part, "item_id": item.item_id, "kind": item.kind, "name": item.name, "has_video": bool(item.video_id)}
    return entry if item.item_id else entry | {"video_id": item.video_id}


def _last_file(root: Path, item: Item) -> Path:
    """What write_item writes last: it is there when the item is finished."""
    return root / item.part / (f"video_text/{item.video_id}.txt" if item.video_id else f"image_text/{item.item_id}.txt")


def _claim(root: Path, settings: Settings) -> None:
    """Makes `root` a sample's folder of these settings; removes a sample of other settings; refuses anything else."""
    manifest = {"made_by": "python -m sample", "settings": asdict(settings), "code": _code_hash()}
    text = json.dumps(manifest, indent=2)
    path = root / MANIFEST
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: expected a folder, found a file. Name another folder.")
    if root.is_dir() and any(root.iterdir()):
        if not _is_ours(path):
            raise UserError(f"{root}: the folder is not empty and holds no {MANIFEST}, so it is not a sample. Name an empty or a new folder.")
        if path.read_text(encoding="utf-8") == text:
            return
        for part in PARTS:
            shutil.rmtree(root / part, ignore_errors=True)
        (root / "items.json").unlink(missing_ok=True)
    root.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("made_by") == "python -m sample"
    except (OSError, ValueError, AttributeError):
        return False


def _code_hash() -> str:
    """Changes when this package does: a sample drawn by other code is drawn anew."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
