"""What the entry points share: options, threads, and how they end."""

import errno
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from shared.cli import DEFAULT_CONFIG, config_of, parse_options, run_entry, use_threads
from shared.errors import UserError


def test_defaults():
    options = parse_options("x", [])
    assert (options.data, options.work, options.weights) == (Path("data"), Path("work"), Path("work/weights"))
    assert options.fresh is False and options.overrides == [] and options.config == DEFAULT_CONFIG
    assert DEFAULT_CONFIG.name == "cpu.yaml" and DEFAULT_CONFIG.is_file()


def test_options_and_overrides_in_any_order():
    options = parse_options(
        "x",
        ["match.keep_quantile=0.5", "--data", "d", "--fresh", "seed=3", "--work=w", "--result", "r.json"],
        ("--result", "the answer"),
    )
    assert (options.data, options.work, options.weights, options.result) == (
        Path("d"),
        Path("w"),
        Path("w/weights"),
        Path("r.json"),
    )
    assert options.fresh and options.overrides == ["match.keep_quantile=0.5", "seed=3"]
    config = config_of(options)
    assert config.match.keep_quantile == 0.5 and config.seed == 3


def test_an_option_of_another_type():
    extra = ("--part", "a part", {"action": "append"}), ("--share", "a share", {"type": float, "default": 0.9})
    options = parse_options("x", ["--part", "a", "seed=3", "--part=b"], *extra)
    assert options.part == ["a", "b"] and options.share == 0.9 and options.overrides == ["seed=3"]
    assert parse_options("x", ["--share", "0.5"], *extra).share == 0.5


def test_the_config_that_the_weights_were_trained_with_goes_first(tmp_path):
    arguments = ["--work", str(tmp_path), "--weights", str(tmp_path / "models")]
    assert parse_options("x", arguments).config == DEFAULT_CONFIG
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.yaml").write_text("seed: 0\n")
    assert parse_options("x", arguments).config == tmp_path / "models" / "config.yaml"
    assert parse_options("x", [*arguments, "--config", "other.yaml"]).config == Path("other.yaml")


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options("x", ["--colour", "red"])
    assert caught.value.code == 2 and "--colour" in capsys.readouterr().err


def test_a_user_error_is_its_message_alone(capsys):
    def main():
        raise UserError("data: no such folder. Name another with --data.")

    with pytest.raises(SystemExit) as caught:
        run_entry(main)
    output = capsys.readouterr()
    assert caught.value.code == 1 and output.out == ""
    assert output.err.strip() == "error: data: no such folder. Name another with --data."


def test_an_interrupt_ends_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_entry(main)
    assert caught.value.code == 130 and capsys.readouterr().out == ""


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_entry(lambda: 1 / 0)


def test_an_entry_that_ends_well_ends_quietly(capsys):
    run_entry(lambda: print("answer"))
    assert capsys.readouterr().out == "answer\n"


def test_threads_are_bounded():
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        assert use_threads(1) == 1
        assert torch.get_num_threads() == 1 and cv2.getNumThreads() == 1
        assert use_threads(0) == len(os.sched_getaffinity(0)) == torch.get_num_threads()
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_sigterm_ends_with_143_and_leaves_the_handlers_as_they_were(capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        run_entry(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(10)))
    assert caught.value.code == 143 and "interrupted; what was finished is kept" in capsys.readouterr().err
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.mark.parametrize(("more", "again"), [([], "the same command goes on"), (["--fresh"], "the same command without --fresh goes on")])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device", "a")])
def test_what_goes_on_is_the_command_without_fresh(more, again, error, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["infer.py", "--work", "w", *more])
    with pytest.raises(SystemExit):
        run_entry(lambda: (_ for _ in ()).throw(error))
    assert f"{again} from there" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("hidden", [RuntimeError("unexpected pos 64 vs 0"), UserError("a half-written file")])
def test_an_interrupt_that_a_library_makes_an_error_of_its_own_is_one(hidden, sent, code, capsys):
    """As torch.save does, interrupted in the middle of a tensor."""

    def main():
        try:
            os.kill(os.getpid(), sent)
            time.sleep(60)
        finally:
            raise hidden

    with pytest.raises(SystemExit) as caught:
        run_entry(main)
    said = capsys.readouterr().err
    assert caught.value.code == code and "interrupted; what was finished is kept" in said and "error" not in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finalizer_swallows_comes_again(capsys, monkeypatch):
    monkeypatch.setattr("shared.cli.AGAIN_S", 0.05)

    class Finalizer:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def main():
        Finalizer()
        time.sleep(10)

    with pytest.raises(SystemExit) as caught:
        run_entry(main)
    assert caught.value.code == 143


@pytest.mark.parametrize(
    "take",
    [
        lambda: torch.empty(1 << 50),
        lambda: np.zeros((1 << 30, 1 << 20)),
        lambda: cv2.resize(np.zeros((2, 2), np.uint8), (1 << 30, 1 << 30)),
        lambda: pa.allocate_buffer(1 << 60),
        lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
    ids=["torch", "numpy", "opencv", "pyarrow", "fork"],
)
def test_where_memory_runs_out_the_keys_to_lower_are_named(take, capsys):
    with pytest.raises(SystemExit) as caught:
        run_entry(take, lower="detect.batch_size")
    said = capsys.readouterr().err
    assert caught.value.code == 1 and "error: memory ran out (" in said and "Lower detect.batch_size, or" in said
    assert "the same command goes on" in said


def test_a_full_disk_is_told_with_the_file(capsys):
    with pytest.raises(SystemExit):
        run_entry(lambda: Path("/dev/full").write_text("x" * 100_000))
    assert "error: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--data", "--work", "--config", "--weights"])
@pytest.mark.parametrize(("path", "printed"), [("a\udcff", "a\\xff"), ("two\nlines", "two\\nlines")])
def test_a_path_that_no_table_and_no_log_can_hold_is_refused(name, path, printed):
    with pytest.raises(UserError) as caught:
        parse_options("x", [name, path])
    assert str(caught.value).startswith(f"{name} {printed}: expected a name of valid UTF-8")


@pytest.mark.parametrize("path", ["käse 短袖", "it's", "a b", "-"])
def test_paths_of_other_kinds_are_taken(path):
    assert parse_options("x", [f"--data={path}"]).data == Path(path)
