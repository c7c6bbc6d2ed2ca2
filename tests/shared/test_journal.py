"""The log of a work folder: lines that are whole whoever writes, bounded, and of no harm where the disk is full."""

import datetime
import json
import logging
import os
import subprocess
import sys
import time

import pytest

import shared.journal
from shared.journal import JsonLines, logged_to, note, read_tail
from shared.progress import progress_bar
from tests.conftest import PROJECT


def record(message, **fields):
    made = logging.LogRecord("name", logging.INFO, "file", 1, message, (), None)
    made.fields = fields
    return made


def test_a_line_has_time_level_logger_message_and_the_events_fields(tmp_path):
    with logged_to(tmp_path):
        note("skipped", "a\nb: skipped", media_id="a\nb", path=tmp_path)
        logging.getLogger("detector").warning("of %d", 3)
    note("skipped", "after it was closed")
    first, second = read_tail(tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert first["event"] == "skipped" and first["media_id"] == "a\nb" and first["path"] == str(tmp_path)
    assert (second["level"], second["logger"], second["message"], second["pid"]) == ("WARNING", "detector", "of 3", os.getpid())
    assert abs(time.time() - datetime.datetime.fromisoformat(second["time"]).timestamp()) < 60


WRITER = """
import logging, sys
from pathlib import Path
from shared.journal import JsonLines
handler = JsonLines(Path(sys.argv[1]))
for k in range(300):
    handler.emit(logging.LogRecord("w", logging.INFO, "f", 1, sys.argv[2] * 700 + str(k), (), None))
"""


def test_several_processes_write_whole_lines(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "log.jsonl", name], cwd=PROJECT) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = [json.loads(line)["message"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name * 700}{k}" for name in "abc" for k in range(300))


def test_the_log_is_bounded_by_one_older_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shared.journal, "MOST_BYTES", 1000)
    handler = JsonLines(tmp_path / "log.jsonl")
    for k in range(100):
        handler.emit(record(f"{k}"))
    handler.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"log.jsonl", "log.1.jsonl"} and all(0 < size < 1300 for size in sizes.values())
    assert read_tail(tmp_path)[-1]["message"] == "99"


def test_a_line_that_could_not_be_written_disturbs_neither_the_run_nor_the_next_line(tmp_path, monkeypatch):
    handler, write = JsonLines(tmp_path / "log.jsonl"), os.write

    def full(file, data):
        write(file, data[:20])
        raise OSError(28, "No space left on device")

    handler.emit(record("one"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        handler.emit(record("two"))
    handler.emit(record("three"))
    assert [line["message"] for line in read_tail(tmp_path)] == ["one", "three"]


def test_no_log_has_no_lines(tmp_path):
    assert read_tail(tmp_path) == []


def test_a_bar_notes_its_state_and_what_was_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("VID2SHOP_QUIET", "1")
    clock = iter(range(0, 10_000, 10))  # ten seconds for each look at it
    monkeypatch.setattr("shared.progress.time.monotonic", lambda: next(clock))
    with logged_to(tmp_path), progress_bar(total=30, title="embed", unit="video", done=10) as bar:
        for k in range(20):
            bar.set_postfix(loss=f"{k}", refresh=False)
            bar.skip(k == 3)
            bar.update()
    lines = [line for line in read_tail(tmp_path) if line.get("event") == "progress"]
    assert lines[0]["done"] == 10 and lines[0]["rate"] is None and lines[-1]["done"] == lines[-1]["total"] == 30
    assert lines[-1]["skipped"] == 1 and lines[-1]["loss"] == "19" and lines[-1]["eta_s"] == 0
    middle = lines[len(lines) // 2]
    assert 0 < middle["rate"] <= 0.1 and middle["eta_s"] == pytest.approx((30 - middle["done"]) / middle["rate"], rel=0.01)
    assert len(lines) < 15, "noted at times, not at every step"
