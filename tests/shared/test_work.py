"""Steps of the work folder: killed and gone on, reused, rebuilt; files whole or not there; one run at a time."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from shared.errors import UserError
from shared.journal import read_tail
from shared.units import UnitStep
from shared.work import (
    Step,
    chunks,
    fingerprint,
    held,
    holder,
    is_held,
    locked,
    read_step,
    table_fingerprint,
    write_json,
    write_text,
    write_torch,
    write_whole,
)
from tests.conftest import PROJECT

EMPTY = {
    "table": pd.DataFrame({"part": pd.Series(dtype="int64"), "name": pd.Series(dtype="str")}),
    "vectors": np.zeros((0, 3), np.float32),
}


class Builder:
    """Builds parts of two rows each, remembers which, and fails when it comes to `fails_at`."""

    def __init__(self, fails_at=None):
        self.built, self.fails_at = [], fails_at

    def __call__(self, k):
        if k == self.fails_at:
            raise KeyboardInterrupt
        self.built.append(k)
        table = pd.DataFrame({"part": [k, k], "name": [f"{k}a", f"{k}ä"]})
        return {"table": table, "vectors": np.full((2, 3), k, np.float32)}, [
            {"media_id": f"bad{k}", "reason": "broken"}
        ] if k == 1 else []


def run(folder, builder, depends=None, fresh=False, n_parts=4):
    """One run of a step as an entry module does it."""
    step = Step(folder, depends or {"key": 1}, fresh)
    if not step.done:
        step.build_parts(n_parts, builder)
        step.finish(n_parts, ["table", "vectors"], EMPTY, {"model": "x"})
    return step


def test_a_finished_step_holds_all_parts_in_order(tmp_path):
    step = run(tmp_path / "step", Builder())
    assert step.table("table").part.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert step.table("table").name.tolist()[:2] == ["0a", "0ä"]
    assert step.vectors()[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and step.vectors().dtype == np.float32
    assert step.manifest["rows"] == 8 and step.manifest["skipped"] == [{"media_id": "bad1", "reason": "broken"}]
    assert (
        step.manifest["fingerprint"] == step.fingerprint
        and step.manifest["model"] == "x"
        and step.manifest["seconds"] >= 0
    )
    assert step.manifest["depends"] == {"key": 1}
    assert not (step.folder / "parts").exists()


def test_a_killed_step_goes_on_at_its_first_missing_part(tmp_path):
    killed = Builder(fails_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step", killed)
    assert killed.built == [0, 1]
    assert not Step(tmp_path / "step", {"key": 1}).done  # no manifest: not finished
    again = Builder()
    step = run(tmp_path / "step", again)
    assert again.built == [2, 3]
    whole = run(tmp_path / "whole", Builder())
    assert step.table("table").equals(whole.table("table")) and np.array_equal(step.vectors(), whole.vectors())
    assert step.manifest["skipped"] == whole.manifest["skipped"]  # also what an earlier run skipped


def test_a_part_that_was_written_by_halves_is_built_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step", Builder(fails_at=2))
    EMPTY["table"].to_parquet(tmp_path / "step/parts/00002.table.parquet")  # its vectors were not written yet
    again = Builder()
    step = run(tmp_path / "step", again)
    assert again.built == [2, 3] and len(step.table("table")) == 8


def test_a_step_killed_before_its_manifest_builds_no_part_again(tmp_path):
    Step(tmp_path / "step", {"key": 1}).build_parts(4, Builder())
    again = Builder()
    assert run(tmp_path / "step", again).manifest["rows"] == 8
    assert again.built == []


def test_an_equal_fingerprint_is_reused(tmp_path):
    run(tmp_path / "step", Builder())
    again = Builder()
    assert run(tmp_path / "step", again).done and again.built == []


def test_the_order_of_keys_is_no_change(tmp_path):
    run(tmp_path / "step", Builder(), {"a": 1, "b": {"c": 2, "d": 3}})
    assert Step(tmp_path / "step", {"b": {"d": 3, "c": 2}, "a": 1}).done


@pytest.mark.parametrize("other", [{"key": 2}, {"key": "1"}, {"key": 1, "more": None}, {"key": [1]}])
def test_a_changed_key_rebuilds_all(tmp_path, other):
    run(tmp_path / "step", Builder())
    again = Builder()
    run(tmp_path / "step", again, other)
    assert again.built == [0, 1, 2, 3]


def test_parts_of_another_fingerprint_are_not_gone_on_from(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step", Builder(fails_at=3))
    again = Builder()
    run(tmp_path / "step", again, {"key": 2})
    assert again.built == [0, 1, 2, 3]


def test_fresh_rebuilds_all(tmp_path):
    run(tmp_path / "step", Builder())
    again = Builder()
    run(tmp_path / "step", again, fresh=True)
    assert again.built == [0, 1, 2, 3]


def test_a_killed_fresh_step_goes_on_without_fresh(tmp_path):
    run(tmp_path / "step", Builder())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step", Builder(fails_at=2), fresh=True)
    again = Builder()
    run(tmp_path / "step", again)
    assert again.built == [2, 3]


def test_a_step_without_parts_or_rows(tmp_path):
    step = run(tmp_path / "none", Builder(), n_parts=0)
    assert step.manifest["rows"] == 0 and step.vectors().shape == (0, 3)
    assert step.table("table").dtypes.equals(EMPTY["table"].dtypes)
    step = Step(tmp_path / "empty", {})
    step.build_parts(2, lambda k: (EMPTY, []))
    step.finish(2, ["table", "vectors"], EMPTY)
    assert step.table("table").empty and step.vectors().shape == (0, 3)


def test_parts_without_rows_do_not_change_the_columns_kinds(tmp_path):
    step = Step(tmp_path / "step", {})
    step.build_parts(3, lambda k: Builder()(k) if k == 1 else (EMPTY, []))
    step.finish(3, ["table", "vectors"], EMPTY)
    assert step.table("table").part.dtype == "int64" and len(step.table("table")) == 2 == len(step.vectors())


def test_a_step_made_in_one_go(tmp_path):
    step = Step(tmp_path / "step", {"key": 1})
    step.write({"table": pd.DataFrame({"a": [1, 2]}), "votes": pd.DataFrame({"b": [1.0]})}, facts={"why": "so"})
    again = Step(tmp_path / "step", {"key": 1})
    assert again.done and again.manifest["rows"] == 2 and again.manifest["why"] == "so"
    assert again.table("votes").b.tolist() == [1.0]


def test_read_step_gives_a_finished_step_and_leaves_it_as_it_is(tmp_path):
    made = run(tmp_path / "step", Builder(), {"key": {"list": [1, 0.1, None, "ä"]}})
    step = read_step(tmp_path / "step")
    assert step.done and step.fingerprint == made.fingerprint and len(step.table("table")) == 8
    (tmp_path / "step" / "begun.json").unlink()
    assert len(read_step(tmp_path / "step").table("table")) == 8  # reading takes nothing away


def test_read_step_refuses_what_another_version_made_and_deletes_nothing(tmp_path):
    run(tmp_path / "step", Builder())
    manifest = tmp_path / "step" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": "of another schema"}))
    with pytest.raises(UserError, match="another version"):
        read_step(tmp_path / "step")
    assert (tmp_path / "step" / "table.parquet").exists()


def test_read_step_refuses_what_is_not_finished(tmp_path):
    for make in (
        lambda folder: None,
        lambda folder: Step(folder, {}),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ):
        make(tmp_path / "step")
        with pytest.raises(UserError, match="not finished"):
            read_step(tmp_path / "step")


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


HOLD = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def test_a_lock_held_by_another_process_is_respected_until_it_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(UserError, match="another run is using"), locked(tmp_path):
                pass
        finally:
            other.kill()
    with locked(tmp_path):
        pass


def test_a_lock_keeps_others_out_and_is_freed_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "deep" / "work"):
        with pytest.raises(UserError, match="another run is using"), locked(tmp_path / "deep" / "work"):
            pass
        raise RuntimeError
    with locked(tmp_path / "deep" / "work"):
        pass


def test_a_work_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    for work in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"), locked(work):
            pass


FORKS = """
import os, sys, time
from pathlib import Path
from shared.work import locked
with locked(Path(sys.argv[1])):
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(60)
"""


def test_a_fork_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", FORKS, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert is_held(tmp_path) and holder(tmp_path)["pid"] == parent.pid
        with pytest.raises(UserError, match=rf"another run is using this work folder \(process {parent.pid} on "), locked(tmp_path):
            pass
        parent.kill()
        parent.wait()
        try:
            os.kill(child, 0)  # it is there still
            assert not is_held(tmp_path)
            with locked(tmp_path):
                assert holder(tmp_path)["pid"] == os.getpid()
        finally:
            os.kill(child, signal.SIGKILL)


def test_readers_share_a_folder_and_writers_do_not(tmp_path):
    with held(tmp_path, shared=True), held(tmp_path, shared=True):
        with pytest.raises(UserError, match="another run is using this weights folder.*another with --weights"):
            with held(tmp_path, what="weights folder", option="--weights"):
                pass
    with held(tmp_path), pytest.raises(UserError, match="another run"), held(tmp_path, shared=True):
        pass
    with held(tmp_path / "nowhere", shared=True):  # what is missing there, its reader tells
        assert not (tmp_path / "nowhere").exists()


def test_where_readers_hold_a_folder_no_run_that_has_ended_is_named(tmp_path):
    with locked(tmp_path):
        pass
    assert holder(tmp_path)["pid"] == os.getpid()
    with held(tmp_path, shared=True), pytest.raises(UserError) as caught, locked(tmp_path):
        pass
    assert "another run is using this work folder (a report, find or export-coco reads it). Wait" in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [{"since": "x"}, {"since": 1e300}, {"since": None}, {"pid": "1"}, {"host": 3}, {"command": "infer"}, {"command": [3]}, "{", "[" * 100_000],
    ids=lambda damage: str(damage)[:20],
)
def test_a_damaged_lock_names_no_one(damage, tmp_path):
    whole = {"pid": 1, "host": "a", "command": [], "since": 1.5}
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps(whole))
    assert holder(tmp_path) == whole
    lock.write_text(damage if isinstance(damage, str) else json.dumps(whole | damage))
    assert holder(tmp_path) is None
    with open(lock, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is using this work folder. Wait for it"), locked(tmp_path):
            pass


def test_to_look_whether_a_folder_is_held_keeps_no_one_out(tmp_path):
    with open(tmp_path / ".lock", "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as is_held does, for a moment
        threading.Timer(0.15, looking.close).start()
        with locked(tmp_path):
            assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_file_system_without_locks_is_told_and_worked_on(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        pass
    assert "its file system knows no locks (No locks available)" in caplog.text


def test_a_run_logs_its_begin_and_its_end(tmp_path):
    with locked(tmp_path):
        pass
    with pytest.raises(UserError), locked(tmp_path):
        raise UserError("no such thing")
    runs = [line for line in read_tail(tmp_path) if line["event"] == "run"]
    assert [line["state"] for line in runs] == ["begun", "finished", "begun", "failed"]
    assert runs[3]["reason"] == "no such thing" and runs[0]["made_with"]["python"]


def test_what_killed_processes_were_writing_is_removed_and_what_living_ones_write_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for folder in (tmp_path, tmp_path / "find", tmp_path / "weights" / "a"):
        folder.mkdir(parents=True, exist_ok=True)
        for process in (dead.pid, os.getppid(), os.getpid()):
            (folder / f".a.b.png.{process}.tmp").touch()
        (folder / ".mine.tmp").touch()
        (folder / "plain.tmp").touch()
    with locked(tmp_path):
        for folder in (tmp_path, tmp_path / "find", tmp_path / "weights" / "a"):
            left = {path.name for path in folder.iterdir() if path.name.endswith(".tmp")}
            assert left == {f".a.b.png.{os.getppid()}.tmp", ".mine.tmp", "plain.tmp"}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "step", Builder(fails_at=2))
    (tmp_path / "step" / "parts" / f".00002.table.parquet.{dead.pid}.tmp").touch()
    step = Step(tmp_path / "step", {"key": 1})
    assert not list(step.folder.rglob("*.tmp")) and step.standing(8, 2) == 4 and step.standing(3, 2) == 3


def test_a_step_killed_after_its_manifest_leaves_no_parts(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shared.work.shutil.rmtree", lambda *more, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        run(tmp_path / "step", Builder())
    assert (tmp_path / "step" / "parts").exists()
    read_step(tmp_path / "step")
    assert (tmp_path / "step" / "parts").exists(), "reading changes nothing"
    assert run(tmp_path / "step", Builder()).done and not (tmp_path / "step" / "parts").exists()


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

    monkeypatch.setattr("shared.work._write_probe", full)
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


@pytest.mark.parametrize(("n_rows", "size", "lengths"), [(0, 3, []), (1, 3, [1]), (3, 3, [3]), (7, 3, [3, 3, 1])])
def test_chunks_cover_all_rows_once(n_rows, size, lengths):
    rows = list(range(n_rows))
    parts = [rows[part] for part in chunks(n_rows, size)]
    assert [len(part) for part in parts] == lengths and sum(parts, []) == rows


def test_fingerprints_tell_values_apart():
    values = [
        {},
        {"a": 1},
        {"a": 1.5},
        {"a": "1"},
        {"b": 1},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": None},
        [],
        ["ä"],
        ["a"],
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_table_fingerprints_see_values_names_and_order():
    table = pd.DataFrame({"a": [1, 2], "b": [0.1, 0.2]})
    changed = [
        table.rename(columns={"a": "c"}),
        table.iloc[::-1],
        table.assign(b=[0.1, 0.2 + 1e-12]),
        table.iloc[:1],
        table[["b", "a"]],
    ]
    assert len({table_fingerprint(each) for each in [table, *changed]}) == 6
    assert table_fingerprint(table.set_axis([7, 8])) == table_fingerprint(table)  # the index is no value


class UnitBuilder:
    """Builds a unit of as many rows as its letter says (a: 0, b: 1, ...), remembers which, and fails when it comes to `fails_at`."""

    def __init__(self, letters, fails_at=None, faulty=""):
        self.letters, self.built, self.fails_at, self.faulty = letters, "", fails_at, faulty

    def __call__(self, k):
        letter = self.letters[k]
        if letter == self.fails_at:
            raise KeyboardInterrupt
        self.built += letter
        n = ord(letter) - ord("a")
        table = pd.DataFrame({"part": np.full(n, n), "name": [letter] * n}).astype(EMPTY["table"].dtypes)
        faults = [{"media_id": letter, "reason": "broken"}] if letter in self.faulty else []
        return {"table": table, "vectors": np.full((n, 3), n, np.float32)}, faults


def run_units(folder, builder, fresh=False, mark="{}".format):
    step = Step(folder, {"letters": builder.letters, "mark": mark("")}, fresh, keep_before=True)
    units = UnitStep(step, len(builder.letters), 2, EMPTY)
    for k, letter in enumerate(builder.letters):
        if not units.stands(k):
            kept = units.kept(mark(letter))
            units.put(k, mark(letter), *((kept, []) if kept else builder(k)))
    assert units.finish() is step
    return step


def contents(folder):
    names = ("units.parquet", "table.parquet", "vectors.npy")
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("letters", ["bcd", "bxcd", "dcb", "c", "", "cdefgh", "abcd", "efg"])
def test_only_units_that_were_not_there_are_built_and_the_files_are_the_same(tmp_path, letters):
    run_units(tmp_path / "step", UnitBuilder("bcd"))
    builder = UnitBuilder(letters)
    run_units(tmp_path / "step", builder)
    assert builder.built == "".join(letter for letter in letters if letters != "bcd" and letter not in "bcd")
    run_units(tmp_path / "anew", UnitBuilder(letters))
    assert contents(tmp_path / "step") == contents(tmp_path / "anew")
    assert not (tmp_path / "step.before").exists()


def test_units_of_another_mark_and_with_fresh_are_built_again(tmp_path):
    run_units(tmp_path / "step", UnitBuilder("bcd"))
    other, fresh = UnitBuilder("bcd"), UnitBuilder("bcde")
    run_units(tmp_path / "step", other, mark="other {}".format)
    run_units(tmp_path / "step", fresh, fresh=True, mark="other {}".format)
    assert other.built == "bcd" and fresh.built == "bcde" and not (tmp_path / "step.before").exists()


def test_a_unit_of_which_something_was_skipped_is_built_again(tmp_path):
    first = run_units(tmp_path / "step", UnitBuilder("bcd", faulty="c"))
    assert [fault["media_id"] for fault in first.manifest["skipped"]] == ["c"]
    again = UnitBuilder("bcde")
    step = run_units(tmp_path / "step", again)
    assert again.built == "ce" and step.manifest["skipped"] == []


def test_killed_while_it_builds_units_it_goes_on_with_what_was_there_before(tmp_path):
    run_units(tmp_path / "step", UnitBuilder("bcd"))
    with pytest.raises(KeyboardInterrupt):
        run_units(tmp_path / "step", UnitBuilder("xbycdz", fails_at="y"))
    changed = UnitBuilder("xbcdz", fails_at="z")  # and meanwhile the data changed again
    with pytest.raises(KeyboardInterrupt):
        run_units(tmp_path / "step", changed)
    last = UnitBuilder("xbcdz")
    run_units(tmp_path / "step", last)
    assert changed.built == "x" and last.built == "z"
    run_units(tmp_path / "anew", UnitBuilder("xbcdz"))
    assert contents(tmp_path / "step") == contents(tmp_path / "anew")


@pytest.mark.parametrize("moment", ["moving", "removing the one before", "finished"])
def test_killed_while_the_step_before_is_moved_or_removed(tmp_path, monkeypatch, moment):
    run_units(tmp_path / "step", UnitBuilder("bcd"))
    with monkeypatch.context() as patched:
        if moment == "moving":
            patched.setattr("shared.work.os.replace", killed_after(os.replace))
        else:
            patched.setattr("shared.work._remove", killed_at_call(2 if moment == "finished" else 1))
        with pytest.raises(KeyboardInterrupt):
            run_units(tmp_path / "step", UnitBuilder("bcde"))
    run_units(tmp_path / "step", again := UnitBuilder("bcde"))
    assert set(again.built) <= {"e"} and not (tmp_path / "step.before").exists()
    run_units(tmp_path / "anew", UnitBuilder("bcde"))
    assert contents(tmp_path / "step") == contents(tmp_path / "anew")


def killed_after(act):
    def do(*arguments):
        act(*arguments)
        raise KeyboardInterrupt

    return do


def killed_at_call(n):
    calls = []

    def remove(folder):
        calls.append(folder)
        if len(calls) == n + 1:
            raise KeyboardInterrupt
        (folder / "manifest.json").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)

    return remove
