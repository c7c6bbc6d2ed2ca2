"""One run at a time in a work folder, and who is told to be there."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from shared.errors import UserError
from shared.journal import read_tail
from shared.lock import held, holder, is_held, locked
from tests.conftest import PROJECT

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
from shared.lock import locked
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
