"""The harness of the benchmarks: turns, ratios, children, and what it says of the machine."""

import json
import os
from functools import partial

import pytest
import torch

from benchmarks.side_by_side import (
    AS_IT_COMES,
    BY_RUN_SH,
    flop_of,
    machine_facts,
    matrix_limits,
    measure,
    publish,
    report_of,
    table_of,
)
from shared.errors import UserError


def counting(name, calls):
    def prepare():
        calls.append(f"prepare {name}")
        return lambda: calls.append(name)

    return prepare


def test_sides_take_turns_and_the_warm_up_is_not_counted():
    calls = []
    measured = measure({name: counting(name, calls) for name in "ab"}, rounds=3, warm_up=2)
    assert calls == ["prepare a", "prepare b", *"ab" * 5]
    assert all(len(side.seconds) == len(side.processor_seconds) == 3 for side in measured.values())
    assert all(side.peak_bytes is None for side in measured.values())


def holding(n_bytes):
    held = bytearray(b"x" * n_bytes)
    return lambda: len(held)


def failing():
    raise ValueError("not today")


def test_children_have_memory_of_their_own_and_give_what_they_made():
    little, much = 1_000_000, 300_000_000
    sides = {str(n): partial(holding, n) for n in (little, much)}
    measured = measure(sides, rounds=1, in_children=True, threads=1)
    assert [side.gave for side in measured.values()] == [little, much]
    first, second = (side.peak_bytes for side in measured.values())
    assert 200_000_000 < second - first < 700_000_000


def giving(n_bytes):
    return lambda: b"x" * n_bytes


def test_the_copy_of_what_a_child_gives_is_not_its_memory():
    sides = {str(n): partial(giving, n) for n in (1, 200_000_000)}
    measured = measure(sides, rounds=2, in_children=True, threads=1)
    first, second = (side.peak_bytes for side in measured.values())
    assert 190_000_000 < second - first < 290_000_000


def without_labels():
    raise UserError("data: no labels")


def test_what_a_user_did_wrong_is_told_by_the_child_in_words(capfd):
    with pytest.raises(UserError, match="data: no labels"):
        measure({"a": without_labels}, rounds=1, in_children=True)
    assert "Traceback" not in capfd.readouterr().err


def by_run_sh():
    return lambda: [os.environ.get(name) for name in (*BY_RUN_SH, *AS_IT_COMES)]


def test_sides_that_run_as_they_come_lack_what_run_sh_sets(monkeypatch):
    for name in BY_RUN_SH:
        monkeypatch.setenv(name, f"{name} of run.sh")
    sides = dict.fromkeys(["plain", "ours"], by_run_sh)
    measured = measure(sides, rounds=1, in_children=True, threads=1, as_they_come=["plain"])
    assert measured["plain"].gave == [None, None, "own"]  # the last: FAISS's kernels are its own choice
    assert measured["ours"].gave == [*(f"{name} of run.sh" for name in BY_RUN_SH), None]
    assert [os.environ.get(name) for name in (*BY_RUN_SH, *AS_IT_COMES)] == measured["ours"].gave


def test_a_child_that_dies_ends_the_benchmark(capfd):
    with pytest.raises(RuntimeError, match="exit code 1"):
        measure({"a": failing}, rounds=1, in_children=True)
    assert "not today" in capfd.readouterr().err


@pytest.fixture
def report():
    measured = measure({"slow": lambda: int, "fast": lambda: int}, rounds=3)
    measured["slow"].seconds, measured["fast"].seconds = [8.0, 4.0, 1.0], [0.5, 9.0, 1.0]
    return report_of(
        "things",
        measured,
        base="slow",
        unit="picture",
        per_call=2,
        flop=1e9,
        limits={"torch f32": 4.0},
        limit_of={"slow": "torch f32"},
        beside={"fast": {"cosine": 0.99}},
    )


def test_figures_by_hand(report):
    slow, fast = report["sides"].values()
    assert (slow["seconds"], slow["ratio"], fast["seconds"], fast["ratio"]) == (2, 1, 0.5, 4)
    assert (slow["gflop_per_s"], fast["gflop_per_s"]) == (0.5, 2)
    assert slow["share_of_limit"] == 0.125 and "share_of_limit" not in fast
    assert fast["all_seconds"] == [0.25, 4.5, 0.5] and fast["cosine"] == 0.99


def test_table_and_json_say_the_same(report, tmp_path, capsys):
    publish([report], tmp_path / "figures.json")
    printed = capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text()) == {"things": report}
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith(("slow", "fast"))}
    assert rows["slow"][:2] == ["2000.0", "1.00"] and rows["slow"][-1] == "12%"
    assert rows["fast"][:2] == ["500.0", "4.00"] and rows["fast"][-1] == "0.99"
    assert table_of(report) in printed and "torch" in printed


def test_operations_are_counted():
    left, right = torch.zeros(3, 5), torch.zeros(5, 7)
    assert flop_of(lambda: left @ right) == 2 * 3 * 5 * 7
    with torch.inference_mode():
        layer = torch.nn.Conv2d(3, 4, 3, bias=False)
        assert flop_of(lambda: layer(torch.zeros(1, 3, 10, 10))) == 2 * 8 * 8 * 4 * 3 * 9


def test_the_machine(monkeypatch):
    facts = machine_facts()
    assert (
        facts["cores"] >= 1
        and facts["memory_bytes"] > 1e8
        and facts["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    monkeypatch.setattr("benchmarks.side_by_side.SIDE", 64)
    monkeypatch.setattr("benchmarks.side_by_side.MULTIPLICATIONS", 2)
    threads = torch.get_num_threads()
    limits = matrix_limits(threads)
    assert {"torch f32", "torch bf16", "openvino f32"} <= set(limits) and all(
        0 < each < 1e6 for each in limits.values()
    )
