"""Files that mean harm: each would do it, were its guard not there; the marker that it would leave is looked for.

What the source must never do is in test_source_rules.py, ids on the report's page in metric_sub/test_report.py.
"""

import io
import json
import os
import pickle
import pickletools
import re
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from bbox_sub.checkpoint import read_checkpoint
from bbox_sub.coco_results import main as export_coco
from bbox_sub.detector import build_detector, load_detector
from bbox_sub.infer import main as detect
from bbox_sub.preview import main as preview_detector
from metric_sub.calibrate import main as calibrate
from metric_sub.embedder import build_embedder, load_embedders, save_embedder
from metric_sub.embeddings import boxes_and_vectors, read_trained
from metric_sub.find import as_file_name
from metric_sub.find import main as find
from metric_sub.index import search_by
from metric_sub.preview import main as preview
from metric_sub.report import main as report
from metric_sub.result import read_result
from shared.columns import check_columns, check_places
from shared.config import dump_config, load_config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.files import write_json
from shared.frames import extract_labelled_frames
from shared.lock import FOLDERS, held, locked
from shared.parse import parse_json, parse_yaml
from shared.runtime import PLAIN
from shared.tables import DETECTION_COLUMNS
from shared.training import Checkpoint, Record
from shared.weights import read_description, read_state, save_weights
from shared.work import Step, read_step
from tests.conftest import door_over
from tests.fuzz.parsers import files_of, run_files
from tests.metric_sub.test_report import report as write_report
from tests.metric_sub.test_report import write_photo, write_run, write_video

PROJECT = Path(__file__).resolve().parents[1]
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
DEEP = "[" * 100_000 + "]" * 100_000


class Trap:
    """What a careless unpickler would run: it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def trap(tmp_path):
    """Where a hostile file would leave its mark; a careful reader leaves none."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


@pytest.fixture
def closed_network(monkeypatch):
    """Any connection fails the test."""

    def refuse(*words, **_):
        raise AssertionError(f"asked the network for {words[1:]}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "wrap", [lambda it: it, lambda it: {"model": {"a": it}}, lambda it: {"model": {"a": np.array([it], object)}}]
)
def test_a_pickle_of_detectron2s_zoo_runs_nothing(tmp_path, trap, protocol, wrap):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(wrap(Trap(trap)), protocol))
    with pytest.raises(UserError, match=r"a\.pkl"):
        read_checkpoint(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "call", ["os\nsystem", "posix\nsystem", "builtins\neval", "builtins\nexec", "subprocess\ngetoutput", "numpy\nload"]
)
def test_a_pickle_that_names_a_function_of_pythons_gets_none(tmp_path, trap, call):
    (tmp_path / "a.pkl").write_bytes(f"c{call}\n(S'touch {trap}'\ntR.".encode())
    with pytest.raises(UserError, match="it asks for"):
        read_checkpoint(tmp_path / "a.pkl")


@pytest.mark.parametrize("kind", ["O", "O8", "V8", "U4", "M8", "S9", "|O", "f4,O", "float32", "", 3, "c8"])
def test_a_pickled_array_of_anything_but_numbers_is_refused(tmp_path, kind):
    """numpy would take raw bytes for the addresses of objects, were it told that a kind of objects holds none."""
    array = pickle.dumps({"model": {"a": np.ones(1, np.float64)}}, protocol=2)
    found = [op for op in pickletools.genops(array) if op[1] == "f8"]
    assert found
    changed = array.replace(b"X\x02\x00\x00\x00f8", b"X" + struct.pack("<I", len(str(kind))) + str(kind).encode())
    (tmp_path / "a.pkl").write_bytes(changed)
    with pytest.raises(UserError, match=r"a\.pkl"):
        read_checkpoint(tmp_path / "a.pkl")


def test_a_pickle_that_claims_a_memo_of_four_billion_takes_no_memory(tmp_path, limited_memory):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")
    with pytest.raises(UserError, match="mapping of names"):
        limited_memory(read_checkpoint, tmp_path / "a.pkl")


@pytest.fixture
def limited_memory():
    """Calls something in this process with 1 GB of further memory."""
    import resource

    def call(function, *arguments, **named):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
        try:
            return function(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return call


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_checkpoint_runs_nothing(tmp_path, trap, suffix, how):
    torch.save({"model": STATE, "extra": Trap(trap)}, tmp_path / f"a{suffix}", **how)
    for read in (read_state, read_checkpoint):
        with pytest.raises(UserError, match="not a plain file of weights"):
            read(tmp_path / f"a{suffix}")


def archive_of_names(names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return out.getvalue()


def test_an_archive_of_weights_is_unpacked_nowhere(tmp_path, trap, monkeypatch):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(folder))
    (folder / "a.pth").write_bytes(archive_of_names(["storages", "tensors", "../../it ran", str(trap)]))
    with pytest.raises(UserError, match="not a plain file of weights"):
        read_state(folder / "a.pth")
    torch.save(STATE, folder / "b.pth")
    with zipfile.ZipFile(folder / "b.pth", "a") as archive:
        archive.writestr("../../it ran", "x")
        archive.writestr(str(trap), "x")
    with pytest.raises(UserError, match="not a plain file of weights"):
        read_state(folder / "b.pth")
    assert sorted(path.name for path in folder.iterdir()) == ["a.pth", "b.pth"]


def test_compressed_weights_are_refused(tmp_path):
    torch.save({"a": torch.zeros(30_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "a.pth").stat().st_size < 200_000
    with pytest.raises(UserError, match=r"a\.pth.*compressed"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(1 << 20, 1 << 20),
        torch.sparse_coo_tensor([[0], [1]], [1.0], (1 << 20, 1 << 20), check_invariants=True),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2).to(torch.float8_e4m3fn),
    ],
    ids=["spread", "sparse", "complex", "float8"],
)
def test_a_tensor_that_is_larger_than_its_file_or_of_another_kind_is_refused(tmp_path, tensor):
    torch.save({"stem.stem_1/conv.weight": tensor}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "code", "shape": [1], "data_offsets": [0, 4]}}).encode(),
    ],
)
@pytest.mark.parametrize("claimed", [None, 2**63, 2**32])
def test_safetensors_with_a_hostile_header_are_refused(tmp_path, header, claimed):
    (tmp_path / "a.safetensors").write_bytes(
        struct.pack("<Q", len(header) if claimed is None else claimed) + header + b"\0" * 4
    )
    with pytest.raises(UserError, match=r"a\.safetensors: not a plain file of weights"):
        read_state(tmp_path / "a.safetensors")


@pytest.mark.parametrize("names", [["../../it ran"], ["/etc/passwd"], ["a\n.weight", "", "</script>"]])
def test_names_of_weights_are_names_alone(tmp_path, names, trap):
    save_file({name: torch.ones(1) for name in names}, tmp_path / "a.safetensors")
    assert sorted(read_state(tmp_path / "a.safetensors")) == sorted(names)


class Part:
    """A model to resume."""

    def __init__(self):
        self.model = nn.Linear(2, 1)

    def checkpoint(self, folder):
        return Checkpoint(folder, {"x": 1}, {"model": self.model}, keep=2)


def test_a_training_state_that_runs_code_is_left_out(tmp_path, trap, caplog):
    Part().checkpoint(tmp_path).save(3)
    path = tmp_path / "resume" / "00000009.pt"
    state = torch.load(tmp_path / "resume" / "00000003.pt", weights_only=True)
    torch.save({**state, "step": 9, "extra": Trap(trap)}, path)
    assert Part().checkpoint(tmp_path).load() == 3
    assert "00000009.pt: damaged" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": {"model": {"weight": torch.ones(9)}}}, "not the state of this training"),
        ({"parts": {}}, "not the state of this training"),
        ({"parts": {"model": 3}}, "not the state of this training"),
    ],
)
def test_a_training_state_of_another_training_is_told(tmp_path, change, words):
    Part().checkpoint(tmp_path).save(3)
    path = tmp_path / "resume" / "00000003.pt"
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(UserError, match=words) as told:
        Part().checkpoint(tmp_path).load()
    assert str(path) in str(told.value)


@pytest.mark.parametrize("change", [{"step": "3"}, {"step": -1}, {"parts": [1]}, {"step": {}}])
def test_a_training_state_without_sense_is_damaged(tmp_path, change, caplog):
    Part().checkpoint(tmp_path).save(3)
    path = tmp_path / "resume" / "00000003.pt"
    torch.save(torch.load(path, weights_only=True) | change, path)
    assert Part().checkpoint(tmp_path).load() == 0 and "damaged" in caplog.text


def test_a_log_of_a_training_is_numbers_alone(tmp_path, caplog):
    text = "step,loss,$\\frac{\n10,0.5,1\nx,1,1\n20,=cmd(),1\n,,\n30,0.25,2\n-1,1,1\n" + "9" * 5000 + ",1,1\n"
    (tmp_path / "log.csv").write_text(text)
    record = Record(tmp_path, from_step=100)
    record.draw()
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["step", "10", "30"]
    assert "5 rows are damaged" in caplog.text and (tmp_path / "curves.png").is_file()
    (tmp_path / "log.csv").write_bytes(b"step,loss\n\xff\xfe\0")
    assert Record(tmp_path, from_step=100).draw() is None


# ---------------------------------------------------------------- model.json


@pytest.fixture
def detector(tiny_config, tmp_path):
    """(folder, change): a detector's folder, and a function that changes its model.json."""
    folder = tmp_path / "weights" / "detector"
    config = tiny_config.detector
    save_weights(
        folder, build_detector(config, load_pretrained=False), {"kind": "detector", "architecture": config.model_dump()}
    )
    return folder, changer(folder / "model.json")


@pytest.fixture
def embedder(tiny_config, tmp_path):
    folder = tmp_path / "weights" / "a"
    model, shape = tiny_config.embedders[0], tiny_config.embed
    save_embedder(folder, [build_embedder(model, shape, load_pretrained=False)], model, shape, {}, 1.0)
    return folder, changer(folder / "model.json")


def changer(path):
    def change(value, *keys):
        tree = node = json.loads(path.read_text())
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        path.write_text(json.dumps(tree))

    return change


@pytest.mark.parametrize(
    "backbone", ["hf-hub:someone/net", "local-dir:/etc", "../../x", "ese_vovnet19b_slim_dw.someone/net", "vovnet", ""]
)
def test_a_backbone_of_elsewhere_is_not_fetched(detector, embedder, backbone, closed_network):
    folder, change = detector
    change(backbone, "architecture", "backbone")
    with pytest.raises(UserError):
        load_detector(folder, runtime=PLAIN, least_score=0.5)
    folder, change = embedder
    change(backbone, "architecture", "model", "backbone")
    with pytest.raises(UserError):
        load_embedders(folder, runtime=PLAIN, flip=False)


@pytest.mark.parametrize(
    ("key", "value"), [("pyramid_channels", 10**7), ("box_head_features", 10**8), ("pyramid_channels", 4000)]
)
def test_a_detector_that_claims_to_be_huge_takes_no_memory(detector, limited_memory, key, value):
    folder, change = detector
    change(value, "architecture", key)
    with pytest.raises(UserError, match="does not fit the architecture in model.json"):
        limited_memory(load_detector, folder, runtime=PLAIN, least_score=0.5)


def test_an_embedder_that_claims_to_be_huge_takes_no_memory(embedder, limited_memory):
    folder, change = embedder
    change(10**8, "architecture", "shape", "dimension")
    with pytest.raises(UserError, match="does not fit the architecture in model.json"):
        limited_memory(load_embedders, folder, runtime=PLAIN, flip=False)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["architecture"], None),
        (["architecture"], "x"),
        (["architecture", "model"], 3),
        (["architecture", "model", "name"], "../../x"),
        (["architecture", "model", "name"], "a\n"),
        (["architecture", "shape", "dimension"], "x"),
        (["networks"], 10**9),
        (["networks"], "x"),
        (["networks"], True),
        (["mean"], [0, 0]),
        (["sha256"], None),
        (["input_size"], -1),
    ],
)
def test_an_embedders_description_without_sense_is_told(tiny_config, embedder, keys, value):
    folder, change = embedder
    change(value, *keys)
    with pytest.raises(UserError, match=r"model\.json"):
        load_embedders(folder, runtime=PLAIN, flip=False)
    with pytest.raises(UserError, match=r"model\.json"):
        read_trained(tiny_config.model_copy(update={"embedders": tiny_config.embedders[:1]}), folder.parent)


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 50_000, '"\\ud800"', "[" + "9" * 5000 + "]", "[]", "3", "\xff"])
def test_a_description_that_is_a_bomb_is_told(tmp_path, text):
    (tmp_path / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"model\.json"):
        read_description(tmp_path)


# ---------------------------------------------------------------- config


def config_with(tmp_path, text):
    """configs/tiny.yaml with its seed replaced by a text."""
    whole = (PROJECT / "configs" / "tiny.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        whole.replace("\nseed: 0", f"\nseed: {text}").replace("seed: 0", f"seed: {text}", 1), encoding="utf-8"
    )
    return tmp_path / "config.yaml"


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch \"{trap}\"']",
        "!!python/object/new:os.system ['touch \"{trap}\"']",
        "!!python/object/apply:builtins.open ['{trap}', w]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!ours x",
    ],
)
def test_tags_of_yaml_run_nothing(tmp_path, trap, tag):
    tag = tag.format(trap=trap)
    with pytest.raises(UserError, match=r"config\.yaml: not valid YAML"):
        load_config(config_with(tmp_path, tag))
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(PROJECT / "configs" / "tiny.yaml", [f"seed={tag}"])


def bomb(merge: bool) -> str:
    """Ten lines that stand for ten thousand million values."""
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for k in range(1, 10):
        ten = ", ".join([f"*a{k - 1}"] * 10)
        lines.append(f"a{k}: &a{k} {{<<: [{ten}]}}" if merge else f"a{k}: &a{k} [{ten}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(merge=False), "aliases expand"),
        (bomb(merge=True), "aliases expand"),
        ("seed: &a [*a]", "refers to what it stands in"),
        ("seed: &a {b: *a}", "refers to what it stands in"),
        ("seed: " + "[" * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "ValueError"),
        ("seed: 2001-99-99", "ValueError"),
        ("seed: !!timestamp x", "AttributeError"),
        ("seed: !!int ''", "not valid YAML"),
        ("seed: !!bool maybe", "KeyError"),
        ("seed: \x00", "not valid YAML"),
        ("a: " + "x" * 1_000_001, "characters"),
    ],
    ids=range(12),
)
def test_bombs_of_yaml_are_refused_in_words(tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as told:
        load_config(tmp_path / "config.yaml")
    assert str(told.value).startswith(f"{tmp_path}/config.yaml: not valid YAML") and len(str(told.value)) < 2000


def test_what_yaml_is_used_for_still_reads():
    text = "a: &a {x: 1, y: [1, 2.5, null, true, 'é']}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None and parse_yaml("3") == 3


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/b", "..", ".hidden", "-x", "a\n", "A", "", "a b", "$(x)", "a\\b", "é"]
)
def test_a_models_name_is_never_a_path(name):
    with pytest.raises(UserError, match=r"embedders\.0\.name"):
        load_config(PROJECT / "configs" / "tiny.yaml", [f"embedders.0.name={json.dumps(name)}"])


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 50_000, "[" + "9" * 5000 + "]", '["\\ud800"]', '{"\\udfff": 1}', "[1", "\ufeff[]", "NaN,"]
)
def test_bombs_of_json_are_refused_in_words(text):
    with pytest.raises(ValueError) as told:
        parse_json(text)
    assert type(told.value).__module__ in ("builtins", "json.decoder") and len(str(told.value)) < 300


def test_characters_in_two_halves_are_whole():
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]') == ["😀", "\\ud800"]


@pytest.mark.parametrize("text", [DEEP, '{"\\ud800": {}}', '{"a": ' + "9" * 5000 + "}"])
def test_a_result_that_is_a_bomb_is_told(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json: not JSON"):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "images/../../secret.jpg", "\0", "a" * 5000, ""]
)
def test_a_coco_file_reaches_no_picture_outside(tmp_path, name, tiny_config):
    shutil.copyfile(next((PROJECT / "docs").glob("*.png")), tmp_path / "secret.jpg")
    (tmp_path / "coco" / "images").mkdir(parents=True)
    shutil.copyfile(tmp_path / "secret.jpg", tmp_path / "coco" / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name}]
    (tmp_path / "coco" / "coco.json").write_text(json.dumps({"images": images}))
    dataset = read_dataset(tmp_path / "coco", tiny_config.data)
    assert dataset.media.media_id.tolist() == ["a.jpg"] and len(dataset.problems) == 1


@pytest.mark.parametrize("item_id", ["../../../escaped", "/escaped", "a/b", "..", "\n", "</script>"])
def test_ids_in_annotations_and_items_become_no_path(tiny_data, tiny_config, item_id, tmp_path):
    for path in (tiny_data / "train").glob("*_annotation/**/*.json"):
        tree = json.loads(path.read_text())
        path.write_text(json.dumps({**tree, "item_id": item_id, "video_id": item_id, "img_name": item_id}))
    (tiny_data / "items.json").write_text(json.dumps([{"item_id": item_id, "kind": item_id}]))
    before = {path for path in tmp_path.rglob("*")}
    dataset = read_dataset(tiny_data, tiny_config.data)
    pictures = extract_labelled_frames(dataset, tmp_path / "work", tiny_config.data, fresh=False)
    assert set(dataset.media.item_id) == {"000000", "000001", "000002", "000003"} and len(pictures)
    assert all(path.is_relative_to(tmp_path / "work") for path in {*tmp_path.rglob("*")} - before)


# ---------------------------------------------------------------- work folders of others


@pytest.fixture
def run(tmp_path):
    """A data set and a work folder as infer leaves it, of another machine."""
    for name, content in run_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def change_table(path, **columns):
    pd.read_parquet(path).assign(**columns).to_parquet(path)


@pytest.mark.parametrize("name", ["../../../secret.jpg", "/etc/passwd", "pictures/../../../secret.jpg"])
@pytest.mark.parametrize("step", ["frames", "crops"])
def test_pictures_that_a_foreign_work_folder_names_are_in_it(tmp_path, name, step):
    with pytest.raises(UserError, match="which is not in it"):
        check_places(pd.Series(["pictures/a.jpg", name]), tmp_path / step)


def test_the_frames_of_a_foreign_work_folder_are_in_it(tiny_data, tiny_config, tmp_path):
    dataset = read_dataset(tiny_data, tiny_config.data)
    extract_labelled_frames(dataset, tmp_path / "work", tiny_config.data, fresh=False)
    change_table(tmp_path / "work" / "frames" / "table.parquet", picture="../../../secret.jpg")
    with pytest.raises(UserError, match=r"secret\.jpg.*not in it"):
        extract_labelled_frames(dataset, tmp_path / "work", tiny_config.data, fresh=False)


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/b", "\0", "é" * 300, "\udcff"])
def test_a_sheet_of_find_has_a_name_in_its_folder(name, tmp_path):
    path = tmp_path / "find" / f"photos-{as_file_name(name)}.png"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert [path.name for path in (tmp_path / "find").iterdir()] == [
        path.name
    ] and path.resolve().parent == tmp_path / "find"


@pytest.mark.parametrize("name", [".lock", "log.jsonl"])
def test_a_file_of_a_work_folder_that_is_a_link_is_refused(name, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / name).symlink_to(kept)
    (tmp_path / "linked").symlink_to("work")
    for work in (tmp_path / "work", tmp_path / "linked"):
        with pytest.raises(UserError, match=rf"{work / name}: .*symbolic link"), locked(work):
            pass
    if name == ".lock":
        with pytest.raises(UserError, match=r"\.lock: .*symbolic link"), held(tmp_path / "work", shared=True):
            pass
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["media", "detections", "detections/photos", "detections/photos.before", "media/parts", "frames/pictures", "find"]
)
def test_a_folder_of_a_work_folder_that_is_a_link_is_refused(name, tmp_path, trap):
    elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
    Step(elsewhere, {}).write({"table": pd.DataFrame({"a": [1]})})
    leftover = elsewhere / f".x.{os.getpid()}.tmp"
    leftover.write_text("mine")
    before = {path: path.read_bytes() for path in elsewhere.iterdir()}
    (work / name).parent.mkdir(parents=True)
    (work / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=rf"{work / name}: expected a folder, found a symbolic link"), locked(work):
        pass
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before
    (work / name).rename(work / "unknown")
    with locked(work):
        assert leftover.exists(), "what no run makes is not looked into"


def test_a_work_folder_and_its_weights_may_be_links(tmp_path):
    for name in ("disk", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "work").symlink_to("disk")
    (tmp_path / "work" / "weights").symlink_to(tmp_path / "models")
    with locked(tmp_path / "work"), held(tmp_path / "work" / "weights"):
        Step(tmp_path / "work" / "media", {}).write({"table": pd.DataFrame({"a": [1]})})


def test_every_folder_that_is_made_in_a_work_folder_is_looked_at_for_links():
    sources = [path for package in ("bbox_sub", "metric_sub", "shared") for path in (PROJECT / package).glob("*.py")]
    named = {name for path in sources for name in re.findall(r'\b(?:work|among) / "(\w+)"', path.read_text("utf-8"))}
    assert named - {"weights"} == set(FOLDERS)


def test_find_and_preview_follow_no_links_out_of_a_work_folder(run, tiny_data):
    common = ["--data", str(tiny_data), "--config", str(PROJECT / "configs" / "tiny.yaml")]
    for main, folder in ((preview, "preview"), (preview_detector, "preview_detector"), (find, "find")):
        (run / "work" / folder).symlink_to(run)
        work = ["--work", str(run / "scratch"), "--among", str(run / "work")] if main is find else ["--work", str(run / "work")]
        with pytest.raises(UserError, match=f"work/{folder}: expected a folder, found a symbolic link"):
            main([*common, *work])
        (run / "work" / folder).unlink()


def test_a_table_runs_no_code(tmp_path, trap):
    """Arrow once unpickled what a Parquet file's schema said of a column's type."""
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Trap(trap))}
    schema = pa.schema([pa.field("mark", pa.string(), metadata=kind), pa.field("rows", pa.int64())])
    step = Step(tmp_path / "step", {})
    step.write({"table": pd.DataFrame({"mark": ["a"], "rows": [1]})})
    pq.write_table(pa.table({"mark": ["a"], "rows": [1]}, schema=schema), tmp_path / "step" / "table.parquet")
    step.table("table")


def test_vectors_run_no_code(tmp_path, trap):
    step = Step(tmp_path / "step", {})
    step.write({"table": pd.DataFrame({"a": [1]})})
    np.save(tmp_path / "step" / "vectors.npy", np.array([[Trap(trap)]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"vectors\.npy"):
        step.vectors()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4), np.float32),
        np.zeros((4,), np.float32),
        np.zeros((4, 4)),
        np.zeros((4, 4), "U3"),
        np.zeros((0, 4), np.float32),
    ],
)
def test_vectors_that_are_not_those_of_the_boxes_are_told(run, array):
    np.save(run / "work" / "embeddings" / "photos" / "vectors.npy", array)
    with pytest.raises(UserError, match="embeddings/photos"):
        boxes_and_vectors(read_step(run / "work" / "embeddings" / "photos"))


DETECTION = pd.DataFrame(
    {name: pd.Series([1 if kind != "str" else "a"]).astype(kind) for name, kind in DETECTION_COLUMNS.items()}
)


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda t: t.drop(columns="score"), "score"),
        (lambda t: t.assign(score=["x"]), "score"),
        (lambda t: t.assign(x1=[np.nan]), "x1"),
        (lambda t: t.assign(x1=[np.inf]), "x1"),
        (lambda t: t.assign(x1=[1e300]), "x1"),
        (lambda t: t.assign(rank=[-1]), "rank"),
        (lambda t: t.assign(rank=[1.5]), "rank"),
        (lambda t: t.assign(frame_index=pd.Series([2**64 - 1], dtype="uint64")), "frame_index"),
        (lambda t: t.assign(media_id=[None]), "media_id"),
        (lambda t: t.assign(media_id=[3]), "media_id"),
        (lambda t: t.assign(media_id=[["a"]]), "media_id"),
        (lambda t: t.assign(name=[b"a"]), "name"),
        (lambda t: t.set_index("name"), "name"),
    ],
)
def test_columns_of_another_kind_are_told(change, column, tmp_path):
    assert check_columns(DETECTION, DETECTION_COLUMNS, tmp_path / "t").dtypes.astype(str).to_dict() == DETECTION_COLUMNS
    with pytest.raises(UserError, match=f"t: .*{column!r}"):
        check_columns(change(DETECTION), DETECTION_COLUMNS, tmp_path / "t")


def everything(run):
    """What reads a whole work folder, each in turn."""
    config = ["--config", str(run / "work" / "config.yaml"), "threads=1", "score.resamples=0"]
    common = ["--data", str(run / "data"), "--work", str(run / "work"), *config]
    return {
        "report": lambda: report(common),
        "calibrate": lambda: calibrate(common),
        "export-coco": lambda: export_coco(["--work", str(run / "work"), "--out", str(run / "coco.json")]),
    }


@pytest.mark.parametrize(
    ("file", "content", "who"),
    [
        ("media/manifest.json", DEEP, ["report", "calibrate", "export-coco"]),
        ("media/manifest.json", "[]", ["report", "calibrate", "export-coco"]),
        ("media/table.parquet", "PAR1", ["report", "calibrate", "export-coco"]),
        ("matches/table.parquet", "", ["report"]),
        ("matches/votes.parquet", None, ["report"]),
        ("embeddings/videos/vectors.npy", "\x93NUMPY", ["calibrate"]),
        ("embeddings/videos/table.parquet", None, ["calibrate"]),
        ("detections/photos/table.parquet", "x", ["export-coco"]),
    ],
)
def test_a_damaged_work_folder_is_told(run, file, content, who):
    path = run / "work" / file
    path.unlink() if content is None else path.write_text(content, encoding="latin-1")
    for name in who:
        with pytest.raises(UserError, match=file.split("/")[0]):
            everything(run)[name]()


def test_matches_that_tell_of_files_of_elsewhere_are_told(run):
    change_table(run / "work" / "matches" / "votes.parquet", item_media_id="../../etc/passwd")
    with pytest.raises(UserError, match="etc/passwd.*does not have"):
        everything(run)["report"]()


@pytest.mark.parametrize("skipped", [[1], [{"media_id": "a"}], [{"media_id": "a", "reason": 3}], {}, "x"])
def test_a_manifest_that_skips_nonsense_is_told(tmp_path, skipped):
    step = Step(tmp_path / "step", {})
    step.write({"table": pd.DataFrame({"a": [1]})})
    path = tmp_path / "step" / "manifest.json"
    write_json(path, json.loads(path.read_text()) | {"skipped": skipped})
    with pytest.raises(UserError, match="not a manifest"):
        read_step(tmp_path / "step")


@pytest.mark.parametrize("content", [b"", b"IxFI", b"IxFl" + b"\xff" * 64, b"IHNf" + b"\x7f" * 200])
def test_an_index_that_is_none_is_told(tmp_path, tiny_config, content):
    gallery = np.eye(64, 8, dtype=np.float32) + np.float32(0.1)
    settings = tiny_config.search.model_copy(update={"index": "IVF2,Flat", "parameters": {}})
    search_by(settings, gallery, "x", tmp_path / "index", seed=0, fresh=False)
    (tmp_path / "index" / "vectors.faiss").write_bytes(content)
    with pytest.raises(UserError, match=r"vectors\.faiss"):
        search_by(settings, gallery, "x", tmp_path / "index", seed=0, fresh=False)


def test_an_index_of_other_vectors_is_told(tmp_path, tiny_config):
    gallery = np.eye(64, 8, dtype=np.float32) + np.float32(0.1)
    settings = tiny_config.search.model_copy(update={"index": "IVF2,Flat", "parameters": {}})
    search_by(settings, gallery, "x", tmp_path / "index", seed=0, fresh=False)
    other = faiss.index_factory(8, "Flat")
    other.add(gallery[:3])
    faiss.write_index(other, str(tmp_path / "index" / "vectors.faiss"))
    with pytest.raises(UserError, match="expected an index of 64 vectors"):
        search_by(settings, gallery, "x", tmp_path / "index", seed=0, fresh=False)


# ---------------------------------------------------------------- the report's page


SCRIPTS = [
    "</script><script>alert(1)</script>",
    "</bdi></article><img src=x onerror=alert(1)>",
    '" onclick="x',
    "{{ 7 * 7 }}{% x %}",
    "\n&#60;b",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_kinds_reasons_and_titles_are_escaped(tmp_path, text):
    name = text.replace("/", "\N{FRACTION SLASH}").replace("\n", " ")
    root, work = tmp_path / f"data {name}", tmp_path / "work"
    write_photo(root, "000001")
    write_photo(root, "000002", name=name)
    (root / "image" / "000003").mkdir()
    (root / "image" / "000003" / f"broken {name}.png").write_bytes(b"x")
    write_video(root, "000001")
    write_video(root, name)
    (root / "video" / f"broken {name}.mp4").write_bytes(b"x")
    (root / "items.json").write_text(json.dumps([{"item_id": "000001", "kind": text}, {"item_id": name, "kind": text}]))
    write_run(root, work, [("000001", "000001", 0.5)])
    page = write_report(root, work)
    tags = {tag for tag, _ in page.elements}
    assert page.text.count("<script") == 1 and page.text.count("</script") == 1 and "x" not in tags
    assert all(not key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert all(attributes.get("src", "data:image/").startswith("data:image/") for _, attributes in page.elements)
    assert page.cards["000001"]["words"].startswith(f"000001 {text.split()[0]}"[:12])
    assert len(page.cards) == 3


# ---------------------------------------------------------------- the shell


NAMES = [
    "$(touch MARK)",
    "`touch MARK`",
    "'; touch MARK; '",
    '"; touch MARK; "',
    "-rf",
    "--fresh",
    "a b",
    "*",
    "a\nb",
    "&& touch MARK",
    "%s",
    "\\",
]


@pytest.fixture
def door(tmp_path):
    """run.sh in a folder of its own, over an interpreter that only writes down its arguments: (call, calls)."""
    run_sh = door_over(f"printf '%s\\0' \"$@\" END >> '{tmp_path}/calls'", tmp_path / "vid2shop")
    here = tmp_path / "here"
    here.mkdir()

    def call(*arguments, **environment):
        (tmp_path / "calls").unlink(missing_ok=True)
        ended = subprocess.run(
            ["bash", str(run_sh), *map(str, arguments)],
            cwd=here,
            env={**os.environ, "TMPDIR": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        text = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
        assert not list(tmp_path.rglob("MARK"))
        return ended, [words.split("\0")[:-1] for words in text.split("END\0") if words]

    return here, call


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["--data={}", "--weights={}", "--config={}", "{}={}"])
@pytest.mark.parametrize("verb", ["train", "infer", "evaluate"])
def test_every_argument_reaches_python_as_it_is(door, name, form, verb):
    _, call = door
    word = form.format(name, name)
    _, calls = call(verb, word, "--stage", "detect")
    assert calls and all(words[-1] == word for words in calls)


@pytest.mark.parametrize("name", NAMES)
def test_a_work_folder_of_any_name_is_read_by_that_name(door, name):
    here, call = door
    (here / name).mkdir()
    (here / name / "result.json").write_text('{"told": 1}')
    ended, calls = call("infer", f"--work={name}")
    assert ended.stdout == '{"told": 1}', ended.stderr
    assert [words[-1] for words in calls] == [f"--work={name}"]


@pytest.mark.parametrize("name", [f"{name}.mp4" for name in NAMES])
def test_find_takes_a_video_of_any_name(door, name):
    here, call = door
    (here / name).write_bytes(b"x")
    for kind in ("photos", "videos"):
        (here / "work" / "embeddings" / kind).mkdir(parents=True)
        (here / "work" / "embeddings" / kind / "manifest.json").write_text("{}")
    ended, calls = call("find", "--video", name)
    assert ended.returncode == 0, ended.stderr
    assert [words[2] for words in calls] == ["bbox_sub.infer", "metric_sub.find"]


@pytest.mark.parametrize("name", NAMES)
def test_find_takes_photos_of_any_name(door, name):
    here, call = door
    (here / name).mkdir()
    for kind in ("photos", "videos"):
        (here / "work" / "embeddings" / kind).mkdir(parents=True)
        (here / "work" / "embeddings" / kind / "manifest.json").write_text("{}")
    ended, calls = call("find", "--photos", name)
    assert ended.returncode == 0, ended.stderr
    assert [words[2] for words in calls] == ["bbox_sub.infer", "metric_sub.find"]


@pytest.mark.parametrize("value", ["1; touch MARK", "$(touch MARK)", "a[$(touch MARK)]", "-1", "x"])
def test_settings_from_the_environment_run_nothing(door, value):
    _, call = door
    for name in ("PROCESSES", "RUNNER"):
        ended, calls = call("train", **{name: value})
        assert ended.returncode == 2 and name in ended.stderr and not calls


def test_the_effective_config_of_a_hostile_name_is_written_plainly(tiny_config, tmp_path):
    text = dump_config(tiny_config.model_copy(update={"training": None}))
    assert "!!" not in text and parse_yaml(text)


def test_a_hostile_config_beside_the_weights_runs_nothing(tmp_path, trap):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch \"{trap}\"']\n")
    with pytest.raises(UserError, match=r"weights/config\.yaml: not valid YAML"):
        detect(["--weights", str(tmp_path / "weights"), "--work", str(tmp_path / "work"), "--data", str(tmp_path)])


def test_there_is_a_whole_run_to_damage(run):
    for use in everything(run).values():
        use()
    assert (run / "work" / "report.html").is_file() and files_of(lambda folder: None) == {}
