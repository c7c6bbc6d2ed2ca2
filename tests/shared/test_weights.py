"""Models' folders and other people's files: there and back exactly, and nothing strange let in."""

import json
import pickle
import signal
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from shared.errors import UserError
from shared.files import remove_leftovers
from shared.weights import fill_backbone, load_weights, read_description, read_state, save_weights

BACKBONE = "resnet10t"


def model_of(seed, width=4):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))
    model.train()(torch.rand(2, 3, 3, 3))  # so that running statistics and counters differ from new ones
    return model


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


CUT_OFF = """
import resource, signal, sys
from pathlib import Path
import torch
from shared.weights import save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Linux's for a file that grows past the limit: the process ends there
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
save_weights(Path(sys.argv[1]), torch.nn.Linear(100, 100), {})
"""


def test_what_a_killed_process_was_writing_is_found_and_removed(tmp_path):
    ended = subprocess.run([sys.executable, "-c", CUT_OFF, tmp_path], check=False)
    assert ended.returncode == -signal.SIGXFSZ and len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_come_back_exactly_with_their_description(tmp_path):
    model = model_of(0).to(memory_format=torch.channels_last)
    save_weights(tmp_path / "model", model, {"kind": "x", "metrics": {"mAP": 0.5}, "architecture": {}})
    other = model_of(1)
    assert not equal(model, other)
    load_weights(tmp_path / "model", other)
    assert equal(model, other)
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # a container of another user reads the weights as it reads model.json
    description = read_description(tmp_path / "model")
    assert description["kind"] == "x" and description["metrics"] == {"mAP": 0.5} and len(description["sha256"]) == 64


def test_saving_again_replaces_both_files(tmp_path):
    save_weights(tmp_path, model_of(0), {"epoch": 1, "architecture": {}})
    save_weights(tmp_path, model_of(1), {"epoch": 2, "architecture": {}})
    other = model_of(2)
    load_weights(tmp_path, other)
    assert equal(other, model_of(1)) and read_description(tmp_path)["epoch"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda folder: save_file(model_of(1).state_dict(), folder / "weights.safetensors"),
        lambda folder: (folder / "weights.safetensors").write_bytes(
            (folder / "weights.safetensors").read_bytes()[:-1] + b"\x55"
        ),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "model.json").write_text(json.dumps({"kind": "x"})),
    ],
)
def test_weights_that_are_not_those_of_model_json_are_refused(tmp_path, tamper):
    save_weights(tmp_path, model_of(0), {"kind": "x", "architecture": {}})
    tamper(tmp_path)
    other = model_of(2)
    with pytest.raises(UserError, match="sha256"):
        load_weights(tmp_path, other)
    assert equal(other, model_of(2))  # nothing was taken over


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_weights(tmp_path, model_of(0), {"architecture": {}})
    for other in (model_of(0, width=5), nn.Sequential(*model_of(0), nn.Linear(2, 2)), nn.Sequential(*model_of(0)[:2])):
        with pytest.raises(UserError, match="does not fit the architecture"):
            load_weights(tmp_path, other)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_model_is_refused(tmp_path, content):
    if content:
        (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_description(tmp_path)


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": {"model": state}},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_states_of_others_are_found_where_they_are_nested(tmp_path, wrap, suffix):
    torch.save(wrap(STATE), tmp_path / f"a{suffix}")
    state = read_state(tmp_path / f"a{suffix}")
    assert sorted(state) == sorted(STATE) and all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_a_safetensors_state(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    assert torch.equal(read_state(tmp_path / "a.safetensors")["a.weight"], STATE["a.weight"])


class Hostile:
    """What would make a careless unpickler write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("plain_pickle", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, nested, plain_pickle):
    trap = tmp_path / "it ran"
    value = {"model": STATE, "extra": Hostile(trap)} if nested else Hostile(trap)
    with open(tmp_path / "a.pth", "wb") as file:
        pickle.dump(value, file, protocol=2) if plain_pickle else torch.save(value, file)
    with pytest.raises(UserError, match=r"a\.pth: not a plain file of weights"):
        read_state(tmp_path / "a.pth")
    assert not trap.exists()


@pytest.mark.parametrize(
    "value", [{}, [1, 2], {"a": 1}, {"model": {"a": "text"}}, {"a": {"b": torch.ones(1)}}, torch.ones(2)]
)
def test_a_file_without_tensors_by_name_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(UserError, match="names to tensors"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"not weights", None])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_broken_or_missing_file_is_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_state(tmp_path / name)


def body_of(seed):
    torch.manual_seed(seed)
    body = timm.create_model(BACKBONE, num_classes=0, global_pool="")
    for weight in body.parameters():
        nn.init.normal_(weight)
    return body


@pytest.fixture
def filled(tmp_path):
    """A backbone, and a file that someone saved of it with a classifier on top."""
    body = body_of(0)
    path = tmp_path / "pretrained.pt"
    torch.save({**body.state_dict(), "fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}, path)
    return body, path


def test_a_backbone_is_filled_from_a_file_without_its_classifier(filled):
    body, path = filled
    other = body_of(1)
    fill_backbone(other, BACKBONE, str(path), "embedders.x.pretrained", "here")
    assert equal(body, other)


@pytest.mark.parametrize(("name", "classifier"), [("legacy_seresnet18", "last_linear"), ("mobilenetv3_small_050", "classifier")])
def test_a_classifier_is_left_out_by_whatever_name_timm_has_for_it(name, classifier, tmp_path):
    whole = timm.create_model(name, num_classes=3)
    assert f"{classifier}.weight" in whole.state_dict()
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    body = timm.create_model(name, num_classes=0, global_pool="")
    fill_backbone(body, name, str(tmp_path / "whole.pt"), "key", "here")
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())


def test_a_backbone_without_pretrained_stays_as_it_is():
    body = body_of(1)
    fill_backbone(body, BACKBONE, False, "key", "here")
    assert equal(body, body_of(1))


def test_counters_that_old_files_lack_are_no_fault(filled):
    body, path = filled
    torch.save({name: value for name, value in body.state_dict().items() if "num_batches_tracked" not in name}, path)
    other = body_of(1)
    fill_backbone(other, BACKBONE, str(path), "key", "here")
    assert torch.equal(other.conv1[0].weight, body.conv1[0].weight)


def test_names_are_brought_to_those_of_the_backbone(filled):
    body, path = filled
    torch.save({f"module.{name}": value for name, value in body.state_dict().items()}, path)
    other = body_of(1)
    with pytest.raises(UserError, match="unknown"):
        fill_backbone(other, BACKBONE, str(path), "key", "here")
    fill_backbone(
        other,
        BACKBONE,
        str(path),
        "key",
        "here",
        lambda state: {name.removeprefix("module."): value for name, value in state.items()},
    )
    assert equal(body, other)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("conv1.0.weight"), "1 missing"),
        (lambda state: state.update({"layer9.weight": torch.ones(1)}), "1 unknown"),
        (lambda state: state.update({"conv1.0.weight": torch.ones(1, 2, 3, 3)}), "size mismatch"),
    ],
)
def test_a_file_that_does_not_fit_wholly_is_refused(filled, change, expected):
    body, path = filled
    state = body.state_dict()
    change(state)
    torch.save(state, path)
    with pytest.raises(UserError, match=expected) as caught:
        fill_backbone(body_of(1), BACKBONE, str(path), "embedders.x.pretrained", "here")
    assert "embedders.x.pretrained" in str(caught.value) and BACKBONE in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        fill_backbone(body_of(1), BACKBONE, str(tmp_path / "nowhere.pth"), "key", "here")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet10t", ["of timm/resnet10t.c3_in1k on the Hugging Face hub", "put it at here/resnet10t.safetensors"]),
        ("resnet10t.no_such", ["timm knows no weights of that name"]),
        ("ese_vovnet99b", ["timm knows no weights of that name"]),
        ("no_such_network", ["timm knows no weights of that name"]),
    ],
)
def test_where_timm_has_or_reaches_no_weights_it_is_told_what_to_do(name, expected, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError) as caught:
        fill_backbone(nn.Identity(), name, True, "embedders.x.pretrained", "here")
    message = str(caught.value)
    assert message.startswith(
        f"embedders.x.pretrained: timm's weights of {name} cannot be fetched (OSError: no network)"
    )
    assert all(words in message for words in [*expected, "set embedders.x.pretrained to"])
