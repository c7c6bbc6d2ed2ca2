"""What a training would write over is kept: whole, once, told apart from what was kept before, or not touched at all."""

import errno
import os
import shutil

import pytest
from torch import nn

from shared.config import save_config
from shared.earlier import keep_earlier
from shared.errors import UserError
from shared.training import Checkpoint, mark_finished
from shared.weights import save_weights


def interrupt(folder, depends):
    """Leaves what a training that depends on this leaves where it is interrupted after its fifth step."""
    checkpoint = Checkpoint(folder, depends, {"model": nn.Linear(4, 2)}, keep=2)
    checkpoint.load()
    checkpoint.save(5)


@pytest.fixture
def trained(tmp_path, tiny_config):
    """A folder of weights: `large` finished by {"key": 1}, with a compiled model, and `small`, interrupted after two checkpoints."""
    weights = tmp_path / "weights"
    save_weights(weights / "large", nn.Linear(1024, 512), {"architecture": {}})
    mark_finished(weights / "large", {"key": 1})
    (weights / "large" / "compiled").mkdir()
    interrupt(weights / "small", {"key": 1})
    shutil.copy(weights / "small" / "resume" / "00000005.pt", weights / "small" / "resume" / "00000006.pt")
    save_config(weights, tiny_config)
    (weights / ".lock").touch()
    return weights


def refusing(error):
    def refuse(*_):
        raise error

    return refuse


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("name", ["large", "small"])
def test_what_another_training_left_is_kept_whole(name, links, trained, tiny_config, monkeypatch):
    before = files_of(trained)
    keep_earlier(trained, {trained / name: {"key": 1} for name in ("large", "small", "new")}, tiny_config)
    assert files_of(trained) == before
    if not links:
        monkeypatch.setattr(os, "link", refusing(PermissionError("no links here")))
    (trained / "small" / "resume" / "00000006.pt").write_bytes(b"damaged")  # the one before it tells whose they are
    before = files_of(trained)
    for _ in range(2):  # the second finds it kept
        keep_earlier(trained, {trained / name: {"key": 2}, trained / "new": {"key": 2}}, tiny_config)
    del before[".lock"]
    assert files_of(trained / "earlier" / "1") == before
    assert [path.name for path in (trained / "earlier").iterdir()] == ["1"]
    assert not (trained / "earlier" / "1" / "large" / "compiled").exists()
    assert not (trained / name / "resume").exists()  # the new training has its own
    linked = {path for path in before if (trained / path).exists() and (trained / path).samefile(trained / "earlier" / "1" / path)}
    assert linked == ({"large/weights.safetensors"} if links else set())

    (trained / name / "model.json").write_text('{"sha256": "", "architecture": {}, "fingerprint": "of another again"}')
    expected = {path: data for path, data in files_of(trained).items() if path != ".lock" and not path.startswith("earlier/")}
    keep_earlier(trained, {trained / name: {"key": 2}}, tiny_config)
    assert files_of(trained / "earlier" / "2") == expected


@pytest.mark.parametrize("fault", ["a file in its place", "full disk"])
def test_where_earlier_weights_cannot_be_kept_nothing_is_written_over(fault, trained, tiny_config, monkeypatch):
    if fault == "full disk":
        monkeypatch.setattr(shutil, "copy2", refusing(OSError(errno.ENOSPC, "No space left on device")))
        reason = "No space left on device"
    else:
        (trained / "earlier").write_text("")
        reason = "Not a directory|File exists"
    before = files_of(trained)
    with pytest.raises(UserError, match=rf"earlier/1: cannot keep there .* \(({reason})\)\. Make room, .*--weights.*--fresh"):
        keep_earlier(trained, {trained / "large": {"key": 2}}, tiny_config)
    assert files_of(trained) == before


def test_checkpoints_of_the_same_step_are_told_apart(trained, tiny_config):
    """Two trainings may be interrupted at one step, before either has weights of its own."""
    for key in (2, 3):
        keep_earlier(trained, {trained / "small": {"key": key}}, tiny_config)
        interrupt(trained / "small", {"key": key})
    keep_earlier(trained, {trained / "small": {"key": 4}}, tiny_config)
    kept = [(trained / "earlier" / number / "small" / "resume" / "00000005.pt").read_bytes() for number in "123"]
    assert len(set(kept)) == 3


def test_a_model_folder_that_is_a_link_is_kept_as_a_folder(trained, tiny_config, tmp_path):
    (trained / "large").rename(tmp_path / "elsewhere")
    (trained / "large").symlink_to("../elsewhere")
    before = files_of(tmp_path / "elsewhere")
    keep_earlier(trained, {trained / "large": {"key": 2}}, tiny_config)
    save_weights(trained / "large", nn.Linear(1024, 512), {"architecture": {}})
    assert files_of(trained / "earlier" / "1" / "large") == before and not (trained / "earlier" / "1" / "large").is_symlink()
