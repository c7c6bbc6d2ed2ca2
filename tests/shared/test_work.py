"""Steps of the work folder: killed and gone on, reused, rebuilt."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from shared.errors import UserError
from shared.lock import locked
from shared.units import UnitStep
from shared.work import Step, chunks, fingerprint, read_step, table_fingerprint

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
