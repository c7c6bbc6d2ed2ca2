"""The CPU's flags, and what manifests say of where they were made."""

import importlib.metadata
import os
import subprocess

import pytest
import torch

import shared.machine
from shared.machine import cpu_flags, made_with
from shared.weights import read_description, save_weights
from shared.work import Step


def test_versions_commit_and_hardware(monkeypatch):
    told = made_with()
    assert told["packages"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ == told["packages"]["torch"]
    assert told["packages"]["pyarrow"] == importlib.metadata.version("pyarrow")
    assert told["vid2shop"] == "0.1.0" or told["vid2shop"].count(".") == 2
    assert told["cores"] == len(os.sched_getaffinity(0)) and told["memory_gb"] > 0 and told["cpu"]


def test_flags_are_those_that_torch_sees():
    seen = torch.cpu.get_capabilities()
    pairs = {"avx2": "avx2", "avx512f": "avx512_f", "avx512bw": "avx512_bw", "amx_bf16": "amx_bf16"}  # Linux's name, torch's
    assert {ours: ours in cpu_flags() for ours in pairs} == {ours: bool(seen.get(theirs)) for ours, theirs in pairs.items()}


@pytest.mark.parametrize("said", [[], ["processor : 0", "Features : fp asimd"]])  # no such file; ARM's
def test_a_cpu_that_tells_no_flags_has_none(said, monkeypatch):
    monkeypatch.setattr("shared.machine._lines", lambda _: said)
    assert cpu_flags.__wrapped__() == frozenset()


def test_the_commit_is_the_checkouts_or_the_images(monkeypatch, tmp_path):
    monkeypatch.setenv("VID2SHOP_COMMIT", "abc")
    made_with.cache_clear()
    try:
        assert made_with()["commit"] == "abc"
        monkeypatch.delenv("VID2SHOP_COMMIT")
        monkeypatch.setattr(shared.machine, "PROJECT", tmp_path)
        made_with.cache_clear()
        assert made_with()["commit"] is None
        (tmp_path / "file").touch()
        git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "first"], ["tag", "-m", "t", "v1"]):
            subprocess.run([*git, *command], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        made_with.cache_clear()
        assert made_with()["commit"] == commit
        (tmp_path / "file").write_text("changed")
        made_with.cache_clear()
        assert made_with()["commit"] == f"{commit}-dirty"
    finally:
        made_with.cache_clear()


def test_manifests_and_models_have_it_and_no_fingerprint_depends_on_it(tmp_path, monkeypatch):
    step = Step(tmp_path / "step", {"key": 1})
    step.write_file("file", lambda beside: beside.write_text("x"), rows=1)
    assert step.manifest["made_with"] == made_with()
    save_weights(tmp_path / "model", torch.nn.Linear(1, 1), {"architecture": {}})
    assert read_description(tmp_path / "model")["made_with"] == made_with()
    monkeypatch.setattr("shared.work.made_with", lambda: {"another": "machine"})
    assert Step(tmp_path / "step", {"key": 1}).done
