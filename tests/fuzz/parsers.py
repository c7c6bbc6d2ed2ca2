"""Every reader of what comes from outside: how inputs for it are drawn, and what is done with what it reads.

A reader's answer is used as the next step would use it, so that what it lets through is seen to do no harm further on.
"""

import functools
import importlib
import io
import json
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from shared.errors import UserError
from shared.media import MediaError
from shared.runtime import PLAIN
from tests.fuzz import mutate

PROJECT = Path(__file__).resolve().parents[2]
MAX_PIXELS = 4_000_000
ITEM, OTHER = "000001", "000002"


@dataclass(frozen=True)
class Parser:
    """inputs: draws files, by path in the input's folder. own_files: those that stand there besides. read: reads the folder, in
    the worker. whole: files as they are before they are changed. prepare: imports what it needs. names: what a clean error's
    message must have one of."""

    name: str
    inputs: Callable[[], st.SearchStrategy]
    read: Callable[[Path], object]
    whole: Callable[[], dict[str, bytes]] = dict
    own_files: Callable[[], dict[str, bytes]] = dict
    prepare: Callable[[], object] = lambda: None
    names: Callable[[Path], list[str]] = lambda folder: [str(folder), *(path.name for path in folder.iterdir())]
    clean: tuple[type[Exception], ...] = (UserError,)


def one_file(name: str, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[dict[str, bytes]]:
    return contents.map(lambda content: {name: content})


def load(*modules: str) -> None:
    """Imports them before the first input, which their time and memory are no part of."""
    for module in modules:
        importlib.import_module(module)


def files_of(make: Callable[[Path], object]) -> dict[str, bytes]:
    """What `make` writes into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# ---------------------------------------------------------------- annotations


def labels_of(item: str, box: tuple = (10, 20, 200, 300)) -> list[dict]:
    instance = int(f"2{item[1:]}01")
    product = {"label": "dress", "viewpoint": 0, "display": 1, "instance_id": instance, "box": list(box)}
    return [product, {**product, "instance_id": 0, "box": [0.5, 1, 30, 40.25]}]


def photo_labels(item: str = ITEM) -> dict:
    return {"item_id": item, "img_name": "0.jpg", "annotations": labels_of(item)}


def video_labels(item: str = ITEM) -> dict:
    frames = [{"frame_index": k, "annotations": labels_of(item) if k else []} for k in (0, 40, 80)]
    return {"video_id": item, "frames": frames}


def media_files() -> dict[str, bytes]:
    """Two items with photos and videos that nobody opens."""
    names = [f"image/{item}/0.jpg" for item in (ITEM, OTHER)] + [f"video/{item}.mp4" for item in (ITEM, OTHER)]
    return dict.fromkeys(names, b"x")


def use_data(folder: Path) -> None:
    """Reads a data set as check, score and training do."""
    from metric_sub.score import Truth, score_result
    from shared.check import table_of
    from shared.dataset import content_fingerprint, read_dataset
    from shared.fit import misplaced_labels, problems_of_media

    dataset = read_dataset(folder, detector_config().data)
    content_fingerprint(dataset)
    sizes = dataset.labelled.assign(width=640, height=480)
    misplaced = misplaced_labels(dataset, sizes)
    problems = dataset.problems + problems_of_media(
        dataset, list(zip(misplaced.media_id, misplaced.fault, strict=True))
    )
    said = [table_of(dataset, problems), *(f"{problem.path}: {problem.fault}" for problem in problems)]
    io.TextIOWrapper(io.BytesIO(), "utf-8").write("\n".join(said))
    settings = {"weights": (0.2, 0.6, 0.2), "rules": "every-instance", "frame_policy": "nearest", "min_iou": 0.5}
    score = score_result({}, Truth.of(dataset), **settings, resamples=0, confidence=0.95, seed=0)
    json.dumps(score, ensure_ascii=False)
    dataset.labels.to_parquet(folder / "labels.parquet")


def prepare_data() -> None:
    load("shared.check", "shared.dataset")
    detector_config()


def labels_parser(name: str, place: str, tree: dict) -> Parser:
    others = {f"image_annotation/{ITEM}/0.json": photo_labels(), f"video_annotation/{ITEM}.json": video_labels()}
    own = {path: json.dumps(other).encode() for path, other in others.items() if path != place}
    return Parser(
        name,
        lambda: one_file(place, mutate.json_files([tree])),
        use_data,
        whole=lambda: {place: json.dumps(tree).encode()},
        own_files=lambda: media_files() | own,
        prepare=prepare_data,
    )


def kinds() -> list[dict]:
    return [{"item_id": ITEM, "kind": "shirt"}, {"video_id": OTHER, "kind": "hat", "item_id": None}]


def coco_tree() -> dict:
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 907, "file_name": "a.jpg", "width": 640, "height": 480},
            {"id": 12, "file_name": "deep/b.jpg", "width": 640, "height": 480},
        ],
        "categories": [{"id": 31, "name": "top"}, {"id": 5, "name": "skirt"}],
        "annotations": [
            {"id": 1, "image_id": 12, "category_id": 31, "bbox": [10, 8, 38, 52.5], "area": 1976, "iscrowd": 0},
            {"id": 2, "image_id": 907, "category_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
    }


def name_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    """Data sets whose folders and files have any names that a file system takes."""
    odd = st.sampled_from(
        [
            *(
                "a b",
                "-x",
                "'",
                '"',
                "$(touch ran)",
                "\n",
                "\r\t",
                "é",
                "\u202e",
                "...",
                "~",
                "a\\b",
                "*",
                "%s",
                "CON",
                "#",
                "a;b",
                "\udcff",
            )
        ]
    )
    letters = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)
    part = st.one_of(odd, letters, st.sampled_from(string.digits), st.just("a" * 200)).filter(
        lambda text: text not in (".", "..") and len(text.encode("utf-8", "surrogateescape")) <= 200
    )
    name = st.tuples(part, st.sampled_from([".jpg", ".mp4", ".json", "", ".", ".JPG ", ".png.jpg"])).map("".join)
    photo = st.builds("image/{}/{}".format, part, name)
    video = st.one_of(st.builds("video/{}".format, name), st.builds("video/{}/{}".format, part, name))
    labels = st.one_of(
        st.builds("image_annotation/{}/{}".format, part, name), st.builds("video_annotation/{}".format, name)
    )
    prefix = st.one_of(st.just(""), st.just(""), part.map("{}/".format))

    def build(prefix: str, names: list[str], kind: object) -> dict[str, bytes]:
        files = {f"{prefix}{path}".strip("/"): b"{}" for path in names}
        files = {
            path: content for path, content in files.items() if not any(other.startswith(f"{path}/") for other in files)
        }
        return files | ({"items.json": mutate.json_bytes(kind)} if kind else {})

    kind = st.one_of(
        st.none(),
        st.builds(lambda item: [{"item_id": item, "kind": item}], part.filter(lambda text: text.isprintable())),
    )
    return st.builds(build, prefix, st.lists(st.one_of(photo, video, labels), min_size=1, max_size=8), kind)


# ---------------------------------------------------------------- config


@functools.cache
def config_text() -> str:
    return (PROJECT / "configs" / "tiny.yaml").read_text(encoding="utf-8")


def use_config(config) -> None:
    """Takes from a config what is reckoned with it before any work begins."""
    from shared.config import Config, dump_config, load_config

    assert isinstance(config, Config)
    assert all(isinstance(each, list) for each in (config.frames.indices, config.embed_train.frames.indices, config.training_parts))
    for model in config.embedders:
        config.train_of(model)
        if not mutate.json_bytes(model.name).isascii() or "/" in model.name or model.name.startswith("."):
            raise AssertionError(f"a model named {model.name!r}")
    text = dump_config(config)
    Path("again.yaml").write_text(text, encoding="utf-8")
    assert dump_config(load_config(Path("again.yaml"))) == text


def read_config(folder: Path) -> None:
    from shared.config import load_config

    use_config(load_config(folder / "config.yaml"))


def read_overrides(folder: Path) -> None:
    from shared.config import load_config

    text = (folder / "overrides.txt").read_bytes().decode("utf-8", "surrogateescape")
    use_config(load_config(PROJECT / "configs" / "tiny.yaml", text.split("\n")[:8]))


OVERRIDES = """match.max_distance=1.0
embedders.0.epochs=3
frames={start: 0, stop: 40, step: 20}
detector.categories=[bag, hat]
embedders.0.train={loss: {margin: 0.2}}
match.calibration={intercept: 8.0, slope: -11.0}"""
OVERRIDE_WORDS = [
    *(
        f"{key}={value}"
        for key in ("seed", "embedders", "match", "detector.anchor_sizes.0")
        for value in ("[]", "{}", "~", "-1", "1e999", "a")
    ),
    *(
        "a",
        "=",
        ".=1",
        "match.=1",
        "match.max_distance",
        "embedders.-1.epochs=1",
        "embedders.9.epochs=1",
        "embedders.x=1",
        "seed.a=1",
    ),
    *(
        "match.max_distance=!!python/name:os.system",
        "match.max_distance=&a [*a]",
        f"seed={'9' * 5000}",
        "seed=1:" + "59:" * 3000 + "1",
    ),
    *(
        "embedders.0.name=../../x",
        "embedders.0.name=a/b",
        'embedders.0.name="a\\n"',
        "seed=!!timestamp x",
        "seed=2001-99-99",
        f"seed={'[' * 3000}",
    ),
    *(
        "frames.stop=9999999999999",
        "seed=\ud800",
        "embedders.0.train={a: {b: {}}}",
        "embedders.0.train=[1]",
        "frames.step=0",
    ),
]


# ---------------------------------------------------------------- weights


@functools.cache
def small_state() -> dict:
    import torch

    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.rand(2, 3, generator=generator), "a.bias": torch.ones(2), "a.steps": torch.tensor(3)}


def saved(value: object, **how) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def safetensors_of(state: dict) -> bytes:
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in state.items()})


def checkpoint_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    import torch

    state = small_state()
    expanded = {
        "a": torch.ones(1).expand(1 << 16, 1 << 16),
        "b": torch.sparse_coo_tensor([[0], [1]], [1.0], (2, 3), check_invariants=True),
    }
    pth = [
        saved(state),
        saved({"model": state, "epoch": 3}),
        saved({"state_dict": expanded}),
        saved(state, _use_new_zipfile_serialization=False),
    ]
    arrays = {name: value.numpy() for name, value in state.items()}
    pkl = [
        {"model": arrays, "__author__": "x", "matching_heuristics": True},
        arrays,
        {"model": {"a": np.float32(3), "b": np.arange(4)[::2]}},
    ]
    return st.one_of(
        one_file("a.pth", mutate.raw_files(pth)),
        one_file("a.pth", mutate.chunked_files(pth[:3], mutate.split_zip, mutate.join_zip)),
        one_file("a.pth", mutate.pickle_files([{"model": arrays}])),
        one_file("a.safetensors", mutate.safetensors_files([safetensors_of(state)])),
        one_file("a.safetensors", mutate.raw_files([safetensors_of(state)])),
        one_file("a.pkl", mutate.pickle_files(pkl)),
    )


def read_weights(folder: Path) -> None:
    from bbox_sub.checkpoint import read_checkpoint
    from bbox_sub.detectron2_names import from_detectron2, is_detectron2

    (path,) = folder.iterdir()
    state = read_checkpoint(path)
    for value in state.values():
        value.float().sum()
    is_detectron2(state)
    try:
        from_detectron2(state)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None  # as import_weights does


@functools.cache
def detector_config():
    from shared.config import load_config

    return load_config(
        PROJECT / "configs" / "tiny.yaml",
        [
            "threads=1",
            "detector.backbone=ese_vovnet19b_slim_dw",
            "detector.pyramid_channels=16",
            "detector.box_head_features=32",
            "detector.pretrained=false",
        ],
    )


@functools.cache
def their_state() -> dict:
    """A detectron2 checkpoint of that detector, as far as detectron2 has its backbone's names."""
    import torch

    from bbox_sub.detector import build_detector
    from bbox_sub.detectron2_names import to_detectron2

    torch.manual_seed(0)
    config = vovnet_config()
    return to_detectron2(build_detector(config.detector, load_pretrained=False).state_dict())


@functools.cache
def vovnet_config():
    from shared.config import load_config

    return load_config(
        PROJECT / "configs" / "tiny.yaml",
        [
            "threads=1",
            "detector.backbone=ese_vovnet19b_slim",
            "detector.ese_in_every_block=true",
            "detector.norm=batch",
            "detector.pyramid_channels=4",
            "detector.box_head_features=8",
            "detector.pretrained=false",
        ],
    )


def import_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    """Changes of a checkpoint: some weights get other names or shapes, or are away. The file itself would be 10 MB."""
    names = sorted(their_state())
    words = [
        *(
            "",
            "x",
            "pixel_mean",
            "pixel_std",
            "stem.stem_1/conv.weight",
            "stage9.OSA9_0.layers.0.x/conv.weight",
            "stem.stem_0/norm.bias",
            "a/conv.",
        ),
        *(
            "roi_heads.box_predictor.cls_score.weight",
            "roi_heads.box_predictor.bbox_pred.bias",
            "backbone.fpn_lateral2.weight",
            "../../x",
        ),
        *(
            "stage2.OSA2_99999999999.concat.a/conv.weight",
            "backbone.bottom_up." * 3,
            "num_batches_tracked",
            "proposal_generator.",
            "é\n",
        ),
    ]
    shapes = [[], [0], [1], [2, 3], [3], [4, 0], [64, 3, 3, 3], [1, 1, 1, 1], [8, 3, 3, 3], [1, 3]]
    kinds = ["float32", "int64", "float16", "bool", "bfloat16", "float64", "float8_e4m3fn"]
    change = st.tuples(
        st.sampled_from(["drop", "rename", "shape", "add", "body"]),
        st.sampled_from(names),
        st.sampled_from([*words, *names[::9]]),
        st.sampled_from(shapes),
        st.sampled_from(kinds),
    )
    return one_file(
        "changes.json", st.lists(change, min_size=1, max_size=4).map(lambda changes: json.dumps(changes).encode())
    )


def read_import(folder: Path) -> None:
    import torch

    from bbox_sub.import_weights import import_weights

    changed = dict(their_state())
    for what, name, word, shape, kind in json.loads((folder / "changes.json").read_bytes()):
        if what == "drop":
            changed.pop(name, None)
        elif what == "rename" and name in changed:
            changed[word] = changed.pop(name)
        elif what == "shape" and name in changed:
            changed[name] = torch.ones(shape).to(getattr(torch, kind))
        elif what == "add":
            changed[word] = torch.ones(shape).to(getattr(torch, kind))
        elif what == "body":
            changed = {key: value for key, value in changed.items() if "bottom_up" in key}
    (folder / "theirs.safetensors").write_bytes(safetensors_of(changed))
    import_weights(folder / "theirs.safetensors", vovnet_config(), folder / "detector")


# ---------------------------------------------------------------- resume


RESUME_DEPENDS = {"run": 1}


def resume_parts() -> dict:
    import torch

    from shared.training import Best, average_of, make_optimizer

    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = make_optimizer("adamw", model, 0.1, 0.1, 0.0)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    best = Best(keeps_weights=True)
    best.improved_by(0.5, model)
    return {"model": model, "optimizer": optimizer, "average": average_of(model, 0.9), "best": best}


@functools.cache
def resume_files() -> dict[str, bytes]:
    from shared.training import Checkpoint

    def make(folder: Path) -> None:
        checkpoint = Checkpoint(folder, RESUME_DEPENDS, resume_parts(), keep=2)
        for step in (10, 20):
            checkpoint.save(step)
        (folder / "log.csv").write_text("step,loss,mAP\n10,0.5,\n20,0.25,0.125\n", encoding="utf-8")

    return files_of(make)


def resume_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    import torch

    name, seeds = "resume/00000020.pt", [resume_files()["resume/00000020.pt"]]
    tree = torch.load(io.BytesIO(seeds[0]), weights_only=True)
    trees = st.builds(
        lambda changes: mutate.change_tree(tree, changes), st.lists(mutate.TREE_CHANGE, min_size=1, max_size=3)
    )
    words = ["", "1", "-1", "nan", "a", "1,2,3,4", '"', "1e999", "\0", "9" * 5000, "10,0.5", "step"]
    return st.one_of(
        one_file(name, trees.map(saved)),
        one_file(name, mutate.chunked_files(seeds, mutate.split_zip, mutate.join_zip)),
        one_file(name, mutate.raw_files(seeds)),
        one_file("log.csv", mutate.text_lines(["step,loss,mAP\n10,0.5,\n20,0.25,0.125\n30,0.1,\n"], words)),
    )


def read_resume(folder: Path) -> None:
    from shared.training import Checkpoint, Record

    parts = resume_parts()
    step = Checkpoint(folder, RESUME_DEPENDS, parts, keep=2).load()
    record = Record(folder, from_step=step)
    record.note(step, loss=0.5)
    record.flush()


def prepare_training() -> None:
    load("shared.training")


# ---------------------------------------------------------------- trained models


@functools.cache
def detector_files() -> dict[str, bytes]:
    import torch

    from bbox_sub.body import preprocessing
    from bbox_sub.detector import build_detector
    from shared.weights import save_weights

    config = detector_config().detector
    torch.manual_seed(0)
    about = {"kind": "detector", "architecture": config.model_dump(), **preprocessing(config), "fingerprint": "x"}
    return files_of(
        lambda folder: save_weights(
            folder / "weights" / "detector", build_detector(config, load_pretrained=False), about
        )
    )


@functools.cache
def embedder_config():
    from shared.config import load_config

    own = "backbone: resnet10t, pretrained: false, input_size: 64, aspect_groups: 5, epochs: 1, batch_size: 4, memory: 0, train: {}"
    return load_config(
        PROJECT / "configs" / "tiny.yaml",
        ["threads=1", f"embedders=[{{name: a, seed: 0, {own}}}]", "embed.dimension=16"],
    )


@functools.cache
def embedder_files() -> dict[str, bytes]:
    import torch

    from metric_sub.embedder import build_embedder, save_embedder

    config = embedder_config()
    torch.manual_seed(0)
    network = build_embedder(config.embedders[0], config.embed, load_pretrained=False)
    return files_of(
        lambda folder: save_embedder(
            folder / "weights" / "a", [network], config.embedders[0], config.embed, {"recall": 0.5}, 1.0
        )
    )


def model_inputs(files: dict[str, bytes], folder: str) -> st.SearchStrategy[dict[str, bytes]]:
    about = json.loads(files[f"{folder}/model.json"])
    odd = [
        *(
            "hf-hub:x/y",
            "local-dir:/etc",
            "vovnet39a.x",
            "resnet10t.nothing",
            "ese_vovnet19b_slim",
            "vit_tiny_patch16_224",
            5000,
            65536,
            7,
            300,
        ),
        *(["a"] * 5000, [1e-9, 2, 3, 4, 5], ["</script>", ""], [0.5, 0.5, 0.5], [0, 0, 0], "detectron2", "group"),
    ]
    change = st.tuples(
        st.sampled_from(mutate.TREE_CHANGES), mutate.PLACE, mutate.PLACE, st.sampled_from([*mutate.ODD_VALUES, *odd])
    )
    trees = st.lists(change, min_size=1, max_size=3).map(
        lambda changes: mutate.json_bytes(mutate.change_tree(about, changes))
    )
    text = mutate.json_files([about])
    return one_file(f"{folder}/model.json", st.one_of(trees, trees, trees, text))


def read_detector(folder: Path) -> None:
    from bbox_sub.detector import INFERENCE_KEYS, load_detector
    from shared.weights import read_description, refuse_other_architecture

    weights = folder / "weights" / "detector"
    configured = detector_config().detector.model_dump()
    description = read_description(weights)
    load_detector(weights, runtime=PLAIN, least_score=0.5)
    refuse_other_architecture(weights, description["architecture"], configured, INFERENCE_KEYS | {"pretrained", "norm"})


def read_embedder(folder: Path) -> None:
    from metric_sub.embedder import load_embedders
    from metric_sub.infer import read_trained, refuse_unfit_index

    weights, config = folder / "weights", embedder_config()
    search = config.search.model_copy(update={"index": "Flat"})
    load_embedders(weights / "a", runtime=PLAIN, flip=True)
    read_trained(config, weights)
    refuse_unfit_index(config.model_copy(update={"search": search}), weights)


def prepare_detector() -> None:
    load("bbox_sub.detector", "bbox_sub.import_weights")
    detector_config(), vovnet_config()


def prepare_embedder() -> None:
    load("metric_sub.embedder", "metric_sub.infer")
    embedder_config()


# ---------------------------------------------------------------- result.json


def result_tree() -> dict:
    box = {"img_name": "0", "item_box": [10, 20, 200, 300], "frame_box": [10.5, 20, 200, 300]}
    entry = {"item_id": ITEM, "frame_index": 60, "result": [box]}
    return {ITEM: entry, OTHER: {**entry, "item_id": OTHER, "result": [box, {**box, "img_name": "1"}]}}


def result_files() -> dict[str, bytes]:
    labels = {f"image_annotation/{item}/0.json": photo_labels(item) for item in (ITEM, OTHER)}
    labels |= {f"video_annotation/{item}.json": video_labels(item) for item in (ITEM, OTHER)}
    files = media_files() | {name: json.dumps(tree).encode() for name, tree in labels.items()}
    return {f"data/{name}": content for name, content in files.items()} | {
        "other.json": json.dumps(result_tree()).encode()
    }


def read_score(folder: Path) -> None:
    from metric_sub.score import main

    common = ["--data", str(folder / "data"), "--config", str(PROJECT / "configs" / "tiny.yaml"), "score.resamples=0"]
    main(["--result", str(folder / "result.json"), "--out", str(folder / "score.json"), *common])
    compared = ["--compare", str(folder / "result.json"), str(folder / "other.json")]
    main([*compared, "--out", str(folder / "compared.json"), *common])


# ---------------------------------------------------------------- work folders


RULE = ("keep_quantile", "min_share", "max_distance", "vote_weight", "weight_scale", "successive_frames", "assignment")


@functools.cache
def run_files() -> dict[str, bytes]:
    """A data set of files that nobody opens, and a work folder as infer leaves it."""
    return files_of(_write_run)


def _write_run(folder: Path) -> None:
    from metric_sub.infer import match_boxes, pair_boxes
    from metric_sub.result import build_result, write_result
    from shared.catalogue import COLUMNS as CATALOGUED
    from shared.config import dump_config
    from shared.dataset import read_media
    from shared.tables import DETECTION_COLUMNS as DETECTED
    from shared.work import Step

    for name, content in result_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config, work = embedder_config(), folder / "work"
    media, _ = read_media(folder / "data", config.data)
    media = media.assign(width=640, height=480, n_frames=200, fps=25.0).astype(CATALOGUED)
    media["path"] = [f"/nowhere/{media_id}" for media_id in media.media_id]
    Step(work / "media", {"media": "x"}).write({"table": media})
    rng, sides = np.random.default_rng(0), {}
    for kind, frame, score, settings in (
        ("photos", 0, config.detect.photo_score, {"keep_best": config.detect.keep_best_photo_box}),
        ("videos", 80, config.detect.video_score, {"frames": [80, 100]}),
    ):
        rows = [
            (row.media_id, row.item_id, row.name, frame, rank, 10, 20, 200, 300, 0.99 - rank / 100, "product")
            for row in media[media.kind == kind[:-1]].itertuples()
            for rank in range(2)
        ]
        table = pd.DataFrame(rows, columns=list(DETECTED)).astype(DETECTED)
        vectors = np.eye(2, 8).repeat(2, axis=0) + rng.normal(
            scale=0.1, size=(len(table), 8)
        )  # of an item near each other
        vectors = np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        depends = {"score": score, "architecture": {"categories": ["product"]}, **settings}
        step = Step(work / "detections" / kind, depends)
        step.write({"table": table})
        embedded = Step(work / "embeddings" / kind, {"detections": step.fingerprint, "weights": ["x"], "flip": False})
        embedded.write({"table": table})
        np.save(embedded.folder / "vectors.npy", vectors)
        sides[kind] = table, vectors
    boxes = *sides["photos"], *sides["videos"]
    matches, votes = match_boxes(*boxes, config.match)
    pairs = pair_boxes(matches, *boxes, config.match)
    Step(work / "matches", config.match.model_dump()).write({"table": matches, "votes": votes, "pairs": pairs})
    write_result(build_result(matches, pairs), work / "result.json")
    (work / "config.yaml").write_text(dump_config(config), encoding="utf-8")


def work_inputs() -> st.SearchStrategy[dict[str, bytes | None]]:
    """A work folder in which one file, or two, are changed or away; tables with their columns and values, manifests by key."""
    files = {
        name: content
        for name, content in run_files().items()
        if name.startswith("work/") and not name.endswith("config.yaml")
    }

    def changed(name: str) -> st.SearchStrategy[dict[str, bytes | None]]:
        content = files[name]
        if name.endswith(".parquet"):
            contents = mutate.parquet_files([content])
        elif name.endswith("manifest.json"):
            contents = st.one_of(manifest_inputs(content), mutate.json_files([json.loads(content)]))
        elif name.endswith(".json"):
            contents = mutate.json_files([json.loads(content)])
        else:
            contents = st.one_of(mutate.raw_files([content]), array_files(content))
        return st.one_of(*[one_file(name, contents)] * 9, st.just({name: None}))

    one = st.sampled_from(sorted(files)).flatmap(changed)
    return st.one_of(one, one, st.builds(lambda a, b: a | b, one, one))


def manifest_inputs(content: bytes) -> st.SearchStrategy[bytes]:
    """Manifests that depend on other things, with the fingerprint that belongs to these: what a forger would write."""
    from shared.work import SCHEMA_VERSION, fingerprint

    tree = json.loads(content)

    def build(changes: list[tuple], others: list[tuple]) -> bytes:
        depends = mutate.change_tree(tree["depends"], changes)
        mark = fingerprint({"schema": SCHEMA_VERSION, **depends}) if isinstance(depends, dict) else ""
        return mutate.json_bytes(mutate.change_tree({**tree, "depends": depends, "fingerprint": mark}, others))

    plain = mutate.TREE_CHANGE.filter(
        lambda change: change[3] not in (mutate.HUGE, mutate.DEEP) and change[3] != "\ud800"
    )
    return st.builds(build, st.lists(plain, max_size=3), st.lists(mutate.TREE_CHANGE, max_size=1))


def array_files(content: bytes) -> st.SearchStrategy[bytes]:
    """Vectors of another count, width or kind, and such with values that are no numbers."""
    array = np.load(io.BytesIO(content), allow_pickle=False)

    def build(rows: int, columns: int, kind: str, value: float, order: str) -> bytes:
        other = np.resize(array, (rows, columns)).astype(kind)
        if other.size and kind[0] == "f":
            other.flat[rows // 2] = value
        out = io.BytesIO()
        np.save(out, np.asarray(other, order=order))
        return out.getvalue()

    values = st.sampled_from([0.5, float("nan"), float("inf"), 1e30])
    kinds = st.sampled_from(["float32", "float32", "float64", "int8", "complex64", "U3", "float16"])
    return st.builds(build, st.integers(0, 9), st.integers(0, 9), kinds, values, st.sampled_from("CF"))


def read_work(folder: Path) -> None:
    """What report, calibrate, find, export-coco and a resumed infer read of a work folder."""
    from bbox_sub.coco_results import main as export_coco
    from metric_sub.cards import CardMaker
    from metric_sub.finished_run import read_run, score_run

    work, data, config = folder / "work", folder / "data", embedder_config()
    faults = []
    for use in (
        lambda: export_coco(["--work", str(work), "--out", str(folder / "coco.json")]),
        lambda: _calibrate(data, work),
        lambda: _find(work, config),
        lambda: _match(work, config),
    ):
        try:
            use()
        except UserError as error:
            faults.append(error)
    run = read_run(data, work, config.data)
    score = score_run(run, config.score)
    maker = CardMaker(run, score, config.frames.start)
    for video in run.data.media[run.data.media.kind == "video"].itertuples():
        maker.card(video)
        list(maker.pictures(video))
    if faults:
        raise faults[0]


def _calibrate(data: Path, work: Path) -> None:
    from metric_sub.calibrate import Matcher, read_boxes
    from metric_sub.settings import Settings

    config = embedder_config()
    boxes, _ = read_boxes(data, work, None, config)
    settings = Settings(config.detect.video_score, config.detect.photo_score, config.match.min_share)
    Matcher(boxes, config.detect.keep_best_photo_box, config.match).result(settings, config.match.max_distance)


def _find(work: Path, config) -> None:
    from metric_sub.embeddings import both_sides
    from metric_sub.find import as_json, rank_nearest, read_asked
    from shared.work import read_step

    read_asked(work)
    sides = both_sides(*(read_step(work / "embeddings" / kind) for kind in ("photos", "videos")))
    as_json(rank_nearest(*sides, config.match.max_distance), "photos")


def _match(work: Path, config) -> None:
    from metric_sub.embeddings import both_sides
    from metric_sub.infer import match_boxes
    from shared.work import read_step

    match_boxes(*both_sides(*(read_step(work / "embeddings" / kind) for kind in ("photos", "videos"))), config.match)


def prepare_work() -> None:
    load("metric_sub.calibrate", "metric_sub.cards")
    embedder_config()
    run_files()


# ---------------------------------------------------------------- media


@functools.cache
def drawn_photos() -> tuple[bytes, ...]:
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, picture, how in (
        ("PNG", image, {}),
        ("PNG", image.convert("P"), {"transparency": 0}),
        ("PNG", Image.fromarray(rng.integers(0, 65535, (9, 9), dtype=np.uint16)), {}),
        ("JPEG", image, {"exif": exif}),
        ("JPEG", image.convert("CMYK"), {}),
        ("JPEG", image, {"progressive": True}),
        ("WEBP", image, {"lossless": True}),
        ("WEBP", image, {"exif": exif}),
        ("GIF", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("PNG", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("TIFF", image, {"compression": "tiff_lzw"}),
        ("TIFF", image, {"compression": "jpeg"}),
        ("TIFF", image.convert("F"), {}),
        ("BMP", image, {}),
        ("ICO", image, {}),
        ("PPM", image, {}),
        ("TGA", image, {"compression": "tga_rle"}),
        ("PCX", image, {}),
        ("SGI", image, {}),
        ("JPEG2000", image, {}),
        ("ICNS", image.resize((32, 32)), {}),
        ("DDS", image, {}),
        ("AVIF", image, {}),
    ):
        out = io.BytesIO()
        try:
            picture.save(out, kind, **how)
        except (KeyError, OSError, ValueError):  # this Pillow was built without it
            continue
        made.append(out.getvalue())
    return tuple(made)


def photo_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    seeds = list(drawn_photos())
    pngs = [seed for seed in seeds if mutate.split_png(seed)]
    raw = one_file("a.jpg", mutate.raw_files(seeds))
    return st.one_of(raw, raw, one_file("a.jpg", mutate.chunked_files(pngs, mutate.split_png, mutate.join_png)))


def read_photos(folder: Path) -> None:
    from shared.media import probe_photo, read_photo

    image = read_photo(folder / "a.jpg", MAX_PIXELS)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
    info = probe_photo(folder / "a.jpg", MAX_PIXELS)
    assert (info.height, info.width) == image.shape[:2], "the size from the header is another"


VIDEO_KINDS = (
    ("a.mp4", "libx264", "yuv420p", {}),
    ("a.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    ("a.mp4", "mpeg4", "yuv420p", {}),
    ("a.mkv", "libx264", "yuv444p", {}),
    ("a.webm", "libvpx-vp9", "yuv420p", {}),
    ("a.webm", "libvpx", "yuv420p", {}),
    ("a.ts", "mpeg2video", "yuv420p", {}),
    ("a.avi", "mjpeg", "yuvj420p", {}),
    ("a.flv", "flv1", "yuv420p", {}),
    ("a.gif", "gif", "rgb8", {}),
    ("a.mov", "libx265", "yuv420p", {}),
    ("a.mkv", "libaom-av1", "yuv420p", {}),
    ("a.mkv", "ffv1", "yuv420p", {}),
)


@functools.cache
def drawn_videos() -> tuple[tuple[str, bytes], ...]:
    import av

    from tests.drawing import numbered_frames, write_video

    made = []
    for name, codec, pixels, container in VIDEO_KINDS:
        options = {"libx264": {}, "libx265": {"g": "6", "x265-params": "log-level=none"}}.get(codec, {"g": "6"})
        try:
            files = files_of(
                lambda folder, name=name, codec=codec, pixels=pixels, container=container, options=options: write_video(
                    folder / name, numbered_frames(12), codec=codec, pixels=pixels, container=container, options=options
                )
            )
        except (av.FFmpegError, ValueError):  # this FFmpeg was built without it
            continue
        made += files.items()
    return tuple(made)


def video_inputs(seeds: tuple[tuple[str, bytes], ...]) -> st.SearchStrategy[dict[str, bytes]]:
    contents = [content for _, content in seeds]
    mp4 = [content for content in contents if content[4:8] == b"ftyp"]
    raw = mutate.raw_files(contents)
    return one_file(
        "a.mp4", st.one_of(raw, raw, mutate.chunked_files(mp4, mutate.split_boxes, mutate.join_boxes)) if mp4 else raw
    )


def read_videos(folder: Path) -> None:
    from shared.media import probe_video, read_frames

    wanted = [0, 3, 5, 11, 80]
    found = list(read_frames(folder / "a.mp4", wanted, MAX_PIXELS))
    assert [index for index, _ in found] == sorted(index for index, _ in found)
    for index, image in found:
        assert index in wanted and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    probe_video(folder / "a.mp4", MAX_PIXELS, max_frames=100_000)


def any_name(folder: Path) -> list[str]:
    return [""]  # whoever catches a MediaError names the file


def prepare_media() -> None:
    load("shared.media")


# ---------------------------------------------------------------- FAISS


@functools.cache
def index_files() -> dict[str, bytes]:
    def make(folder: Path) -> None:
        for name in INDEXES:
            _search(folder, name)

    return files_of(make)


INDEXES = ("IVF4,Flat", "HNSW4,Flat", "PQ4x4", "IVF2,SQ8", "IVF2,PQ4x4")


def _search(folder: Path, name: str) -> None:
    from metric_sub.index import search_by

    rng = np.random.default_rng(0)
    gallery = np.float32(rng.normal(size=(200, 8)))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    settings = embedder_config().search.model_copy(update={"index": name, "parameters": {}, "train_rows": 200})
    search = search_by(settings, gallery, "x", folder / name.replace(",", "-"), seed=0, fresh=False)
    distances, indices = search(gallery[:5], gallery, 3)
    assert distances.shape == indices.shape == (5, 3) and (indices >= 0).all() and (indices < 200).all()


def index_inputs() -> st.SearchStrategy[dict[str, bytes]]:
    files = {name: content for name, content in index_files().items() if name.endswith(".faiss")}
    return st.sampled_from(sorted(files)).flatmap(lambda name: one_file(name, mutate.raw_files([files[name]])))


def read_index(folder: Path) -> None:
    for name in INDEXES:
        _search(folder, name)


def prepare_index() -> None:
    load("metric_sub.index")
    embedder_config()
    index_files()


MEDIA = {"names": any_name, "clean": (UserError, MediaError), "prepare": prepare_media}
PARSERS = {
    parser.name: parser
    for parser in (
        labels_parser("photo_labels", f"image_annotation/{ITEM}/0.json", photo_labels()),
        labels_parser("video_labels", f"video_annotation/{ITEM}.json", video_labels()),
        Parser(
            "items",
            lambda: one_file("items.json", mutate.json_files([kinds()])),
            use_data,
            whole=lambda: {"items.json": json.dumps(kinds()).encode()},
            own_files=media_files,
            prepare=prepare_data,
        ),
        Parser(
            "coco",
            lambda: one_file("coco.json", mutate.json_files([coco_tree()])),
            use_data,
            whole=lambda: {"coco.json": json.dumps(coco_tree()).encode()},
            own_files=lambda: {"a.jpg": b"x", "images/deep/b.jpg": b"x"},
            prepare=prepare_data,
        ),
        Parser("names", name_inputs, use_data, whole=media_files, prepare=prepare_data),
        Parser(
            "config",
            lambda: one_file("config.yaml", mutate.text_lines([config_text()], mutate.YAML_WORDS)),
            read_config,
            whole=lambda: {"config.yaml": config_text().encode()},
        ),
        Parser(
            "overrides",
            lambda: one_file("overrides.txt", mutate.text_lines([OVERRIDES], [*OVERRIDE_WORDS, *mutate.YAML_WORDS])),
            read_overrides,
            whole=lambda: {"overrides.txt": OVERRIDES.encode()},
            names=lambda folder: ["override", "tiny.yaml"],
        ),
        Parser(
            "checkpoint",
            checkpoint_inputs,
            read_weights,
            whole=lambda: {"a.pth": saved({"model": small_state()})},
            prepare=prepare_detector,
        ),
        Parser(
            "detectron2",
            import_inputs,
            read_import,
            whole=lambda: {"changes.json": b"[]"},
            prepare=prepare_detector,
        ),
        Parser("resume", resume_inputs, read_resume, own_files=resume_files, prepare=prepare_training),
        Parser(
            "detector",
            lambda: model_inputs(detector_files(), "weights/detector"),
            read_detector,
            own_files=detector_files,
            prepare=prepare_detector,
        ),
        Parser(
            "embedder",
            lambda: model_inputs(embedder_files(), "weights/a"),
            read_embedder,
            own_files=embedder_files,
            prepare=prepare_embedder,
        ),
        Parser(
            "result",
            lambda: one_file("result.json", mutate.json_files([result_tree()])),
            read_score,
            whole=lambda: {"result.json": json.dumps(result_tree()).encode()},
            own_files=result_files,
            prepare=prepare_data,
        ),
        Parser("work", work_inputs, read_work, own_files=run_files, prepare=prepare_work),
        Parser("index", index_inputs, read_index, own_files=index_files, prepare=prepare_index),
        Parser("photos", photo_inputs, read_photos, whole=lambda: {"a.jpg": drawn_photos()[3]}, **MEDIA),
        Parser(
            "videos",
            lambda: video_inputs(drawn_videos()),
            read_videos,
            whole=lambda: {"a.mp4": drawn_videos()[0][1]},
            **MEDIA,
        ),
    )
}
