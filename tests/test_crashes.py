"""Runs that are killed, that find a full or a read-only disk, or lose a worker: real processes, real signals, a real small disk."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from shared.journal import read_tail
from shared.lock import holder, is_held
from tests.conftest import PROJECT
from tests.forks import AT_ONCE, BY_STAGES, TRAIN, run_stages, start_stage
from tests.kill_loop import arguments, contents, draw, processes_of, run_loop


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """A folder with data, config and the work folder of an undisturbed train and infer."""
    folder = tmp_path_factory.mktemp("calm")
    draw(folder)
    assert run_stages(AT_ONCE, arguments(folder), folder / "log") == 0, (folder / "log").read_text()
    return folder


def with_work(calm: Path, work: Path) -> list[str]:
    return [*arguments(calm), "--work", str(work)]


@contextlib.contextmanager
def small_disk(folder: Path, size: int):
    """A tmpfs of so many bytes at `folder`; gives a function that mounts it anew with other options."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (it wants root)")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


def has_loaded_torch(pid: str) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended since it was listed


def test_killed_at_random_moments_train_and_infer_end_with_the_undisturbed_files(tmp_path):
    summary = run_loop(tmp_path, rounds=5, seed=3, by_door=False)
    assert summary["failures"] == [] and summary["kills"] == 5 and summary["runs_compared"] >= 2
    assert summary["files_compared"] > 50


def test_the_same_config_data_and_seed_give_the_same_bytes_anywhere(calm, tmp_path):
    assert run_stages(BY_STAGES, with_work(calm, tmp_path / "elsewhere"), tmp_path / "log") == 0
    assert contents(tmp_path / "elsewhere") == contents(calm / "work")


def test_a_full_disk_ends_each_run_in_words_and_the_work_goes_on_when_there_is_room(calm, tmp_path):
    """The disk grows from run to run, so that it is full in the middle of ever later writes."""
    work, log, size, full = tmp_path / "disk", tmp_path / "log", 100 << 10, 0
    with small_disk(work, size) as remount:
        while (code := run_stages(AT_ONCE, with_work(calm, work), log)) != 0:
            said = log.read_text()
            assert code == 1 and "error: the disk is full" in said and "Traceback" not in said, said
            assert not list(work.rglob("*.tmp")), "what could not be written is removed"
            log.unlink()
            full += 1
            size *= 3
            remount(f"size={size}")
        assert full > 3
        assert contents(work) == contents(calm / "work")


def test_a_read_only_work_folder_is_refused_and_can_be_looked_at(calm, tmp_path):
    work, log = tmp_path / "disk", tmp_path / "log"
    with small_disk(work, 1 << 20) as remount:
        process = start_stage("train, stage 1", with_work(calm, work), log)
        wait_for(lambda: read_tail(work))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        remount("ro")
        log.unlink()
        assert run_stages(TRAIN, with_work(calm, work), log) == 1
        assert "the work folder cannot be written (Read-only file system)" in log.read_text()
        told = subprocess.run(["bash", PROJECT / "run.sh", "status", "--work", work], capture_output=True, text=True)
        assert told.returncode == 0 and "the last run was killed" in told.stdout, told.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_in_words_and_frees_the_folder(sent, code, calm, tmp_path):
    work, log = tmp_path / "work", tmp_path / "log"
    process = start_stage("train, stage 2", with_work(calm, work), log)
    wait_for(lambda: is_held(work))
    os.kill(process.pid, sent)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == code and "interrupted; what was finished is kept" in said and "Traceback" not in said
    assert not is_held(work)


def test_run_sh_that_is_terminated_takes_its_run_with_it(calm, tmp_path):
    work, log = tmp_path / "work", tmp_path / "log"
    more = "detector_train.phases=[{iterations: 100000, short_sides: [64], learning_rate: 0.001, batch_size: 2, start: last}]"
    with open(log, "wb") as file:
        door = subprocess.Popen(["bash", PROJECT / "run.sh", "train", *with_work(calm, work), more], stderr=file)
    wait_for(lambda: is_held(work) and holder(work), 120)
    run = holder(work)["pid"]
    assert run != door.pid
    door.terminate()
    door.wait()
    wait_for(lambda: not Path("/proc", str(run)).exists())
    assert not is_held(work) and "interrupted; what was finished is kept" in log.read_text()


def test_ctrl_c_soon_after_run_sh_began_shows_no_traceback(calm, tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        command = ["bash", PROJECT / "run.sh", "train", *with_work(calm, tmp_path / "work")]
        door = subprocess.Popen(command, stderr=file, start_new_session=True)
    children = Path(f"/proc/{door.pid}/task/{door.pid}/children")
    wait_for(lambda: any(map(has_loaded_torch, children.read_text().split())))
    os.killpg(door.pid, signal.SIGINT)  # in the middle of the imports
    assert door.wait() in (130, -signal.SIGINT) and "Traceback" not in log.read_text()


def test_a_killed_data_worker_is_told_and_the_run_goes_on_to_the_same_weights(calm, tmp_path):
    work, log = tmp_path / "work", tmp_path / "log"
    process = start_stage("train, stage 1", with_work(calm, work), log)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: log.exists() and "phase 1 of 2" in log.read_text())  # the decoder, a child too, is gone by then
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 1 and "Traceback" not in said, said
    assert "a process that prepares the batches was killed" in said and "detector_train.workers" in said
    assert run_stages(["train, stage 1"], with_work(calm, work), log) == 0
    name = "weights/detector/weights.safetensors"
    assert contents(work)[name] == contents(calm / "work")[name]


def test_a_killed_training_leaves_no_data_worker(calm, tmp_path):
    """Also where Python would start it from a fork server, as the processes of these tests do."""
    log = tmp_path / "log"
    process = start_stage("train, stage 1", with_work(calm, tmp_path / "work"), log)
    wait_for(lambda: log.exists() and "phase 1 of 2" in log.read_text())
    assert len(processes_of({process.pid})) > 1
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: not processes_of({process.pid}))


def test_of_two_runs_on_one_folder_one_is_refused_and_the_other_is_right(calm, tmp_path):
    work, logs = tmp_path / "work", [tmp_path / "log 1", tmp_path / "log 2"]
    processes = [start_stage("train, stage 1", with_work(calm, work), log) for log in logs]
    for process in processes:
        process.join()
    assert sorted(process.exitcode for process in processes) == [0, 1]
    refused = logs[[process.exitcode for process in processes].index(1)].read_text()
    assert "another run is using this work folder (process" in refused and "Traceback" not in refused
    name = "weights/detector/weights.safetensors"
    assert contents(work)[name] == contents(calm / "work")[name]
