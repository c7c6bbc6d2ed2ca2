"""Chains of stages in threads: the order of the source, bounded queues, one error, no thread left."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.flow import Flow
from tests.conftest import PROJECT

PATIENCE_S = 60

FIRST_CONVOLUTION = """
import os
import torch
from shared.cli import use_threads
from shared.flow import Flow

def helpers_of_a_convolution():
    before = set(os.listdir("/proc/self/task"))
    with torch.inference_mode():
        torch.nn.functional.conv2d(image, weights, padding=1)
    yield len(set(os.listdir("/proc/self/task")) - before)

use_threads(1)
image, weights = torch.ones(1, 64, 128, 128), torch.ones(64, 64, 3, 3)
with Flow() as flow:
    print(*flow.ahead(helpers_of_a_convolution(), size=int))
"""


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead-")]


def until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@given(st.lists(st.integers(0, 9)), st.integers(1, 12), st.integers(1, 4))
def test_any_chain_gives_what_the_stages_give_one_after_the_other(items, room, n_stages):
    def stage(source):
        for item in source:
            yield item + 1
            if item % 3 == 0:  # a stage may give more, or fewer
                yield item * 10

    expected, chain = iter(items), iter(items)
    with Flow() as flow:
        for _ in range(n_stages):
            expected, chain = stage(expected), flow.ahead(stage(chain), size=lambda item: item, room=room)
        assert list(chain) == list(expected)
    assert not alive()


@pytest.mark.parametrize(("sizes", "most_waiting"), [([1] * 30, 4), ([2] * 30, 2), ([9] * 30, 1), ([0] * 30, 30)])
def test_no_more_waits_than_there_is_room_for_or_one_item(sizes, most_waiting):
    made = []

    def source():
        for number, size in enumerate(sizes):
            made.append(number)
            yield size

    with Flow() as flow:
        chain = flow.ahead(source(), size=lambda item: item, room=4)
        in_hand = min(most_waiting + 1, len(sizes))  # those that wait, and the one that the thread holds
        until(lambda: len(made) == in_hand)
        time.sleep(0.02)
        assert len(made) == in_hand
        for taken, _ in enumerate(chain, 1):
            assert len(made) <= taken + in_hand


def test_arrays_wait_by_their_bytes(monkeypatch):
    monkeypatch.setattr("shared.flow.ROOM", 40)
    made = []
    with Flow() as flow:
        flow.ahead(made.append(k) or np.zeros(10, np.uint8) for k in range(30))
        until(lambda: len(made) == 5)  # four wait, the thread holds one
        time.sleep(0.02)
        assert len(made) == 5


def test_stages_work_at_the_same_time():
    begun = [threading.Event() for _ in range(8)]

    def first():
        for number, event in enumerate(begun):
            event.set()
            yield number

    def second(source):
        for number in source:
            if number + 1 < len(begun):
                assert begun[number + 1].wait(PATIENCE_S)  # the first is at the next while this one is at work
            yield number

    with Flow() as flow:
        assert list(flow.ahead(second(flow.ahead(first(), size=int)), size=int)) == list(range(8))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_stage_comes_once_after_what_was_before_it(failing):
    def stage(source, number):
        for item in source:
            if number == failing and item == 5:
                raise ValueError("five")
            yield item

    seen = []
    with pytest.raises(ValueError, match="^five$"), Flow() as flow:
        chain = iter(range(100))
        for number in range(3):
            chain = flow.ahead(stage(chain, number), size=int)
        for item in chain:
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4] and not alive()
    assert list(chain) == []  # told once


def test_leaving_early_stops_every_stage_and_closes_the_source():
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with pytest.raises(KeyError), Flow() as flow:
        chain = flow.ahead(flow.ahead(endless(), size=int, room=2), size=int, room=2)
        next(chain)
        raise KeyError
    assert not alive() and closed == [True]


def test_a_flow_that_is_never_read_ends_too():
    with Flow() as flow:
        flow.ahead(flow.ahead(iter(range(1000)), size=int, room=3), size=int, room=3)
    assert not alive()


def test_ctrl_c_ends_a_process_whose_stages_wait():
    code = """
import sys, time
from shared.flow import Flow
def forever():
    while True:
        yield 1
        time.sleep(0.01)
def never(source):
    for _ in source:
        print("at work", flush=True)
    yield 0
try:
    with Flow() as flow:
        for _ in flow.ahead(never(flow.ahead(forever(), size=int)), size=int):
            pass
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"at work\n"
    process.send_signal(2)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130


def test_a_stage_computes_in_as_many_threads_as_the_config_says():
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("OMP_NUM_THREADS", None)  # with it every thread begins with so many
    ended = subprocess.run([sys.executable, "-c", FIRST_CONVOLUTION], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr
