"""Files that are whole or not there, on disks that are full, in memory, or none."""

import errno
import json
import os
import re
import tempfile
from pathlib import Path

import pytest
import torch

from shared.files import write_json, write_text, write_torch, write_whole


def test_write_whole_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": "ä"})

    def fail(beside):
        beside.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, fail)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": "ä"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_while_a_file_is_written_its_name_is_not_taken(tmp_path):
    seen = []
    write_whole(tmp_path / "a", lambda beside: (beside.write_text("x"), seen.append((tmp_path / "a").exists())))
    assert seen == [False] and (tmp_path / "a").read_text() == "x"


def test_a_library_that_hides_the_full_disk_is_seen_through(tmp_path, monkeypatch):
    def write(beside):
        beside.write_text("half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    def write_more(beside):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'a'}'")):
        write_whole(tmp_path / "a", write_more)
    with pytest.raises(RuntimeError, match="Pytorch"):  # the disk is well: the error is what it says
        write_whole(tmp_path / "a", write)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shared.files._write_probe", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'a'}'")):
        write_whole(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_torch_on_a_full_disk_tells_so(tmp_path):
    state = {"weights": torch.zeros(1000)}
    write_torch(tmp_path / "a.pt", state)
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["weights"], state["weights"])

    def write(beside):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of the file, which torch writes on through
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'b.pt'}'")):
        write_whole(tmp_path / "b.pt", write)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm here")
def test_a_disk_in_memory_is_a_disk(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "a"
        path.write_text("old")
        write_whole(path, lambda beside: (beside.write_text("x"), path.read_text() == "old" or pytest.fail("not beside")))
        assert path.read_text() == "x"


def test_a_device_is_written_as_it_is_and_a_long_name_fits(tmp_path, capfd):
    write_text(Path("/dev/stdout"), "to the terminal")
    assert capfd.readouterr().out == "to the terminal" and Path("/dev/stdout").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "to the pipe")
    assert os.read(reader, 100) == b"to the pipe" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    for name in ("a" * 255, "ä" * 127):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_every_file_and_every_entry_is_flushed_before_the_next_is_written(tmp_path, monkeypatch):
    """What the kernel is asked for, in order: the file, its new name, then the folder."""
    asked = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (asked.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (asked.append("rename"), replace(a, b)))
    write_text(tmp_path / "a", "x")
    assert asked == [str(tmp_path / f".a.{os.getpid()}.tmp"), "rename", str(tmp_path)]
