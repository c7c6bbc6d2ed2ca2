"""The reader in another process: the same pictures as in this one, and what becomes of files that a decoder does not survive."""

import collections
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.decoder import RING_BYTES, place_in_ring
from shared.errors import UserError
from shared.media import MediaError, probe_video, read_frames
from shared.reader import open_reader
from tests.conftest import PROJECT, data_limits
from tests.drawing import numbered_frames, write_video

BAD = "tests.shared.bad_decoder"


def seen(answer):
    """The frames that an answer gives, up to the reason why it gives no more."""
    frames, reason = [], None
    try:
        for index, image_rgb in answer:
            assert (image_rgb == index).all()
            frames.append(index)
    except MediaError as error:
        reason = str(error)
    return frames, reason


def test_pictures_are_those_of_this_process(tmp_path):
    video = write_video(tmp_path / "a.mp4", numbered_frames())
    picture = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_reader(data_limits()) as reader:
        got = dict(reader.frames(video, [3, 20, 5, 99]))
        here = dict(read_frames(video, [3, 20, 5, 99], 10**8))
        assert list(got) == list(here) == [3, 5, 20]
        assert all(np.array_equal(got[k], here[k]) and got[k].flags.writeable for k in here)
        assert np.array_equal(reader.photo(tmp_path / "a.png"), picture)
        assert reader.probe_video(video) == probe_video(video, 10**8, 1000)
        assert reader.probe_photo(tmp_path / "a.png").height == 30


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "SIGSEGV"),
        ("killed", "SIGKILL"),
        ("abort", "SIGABRT"),
        ("exit", "exit 3"),
        ("bug", "exit 1"),
        ("bloat", "data.decoder_memory_mb (512)"),
        ("bad", "no frame 3"),
        ("hang", "data.seconds_per_file (3 s)"),
        ("stuck", "data.seconds_per_file (3 s)"),
    ],
)
def test_a_file_that_the_decoder_does_not_survive_is_lost_alone(name, reason):
    seconds = 3 if "(3 s" in reason else 60
    with open_reader(data_limits(decoder_memory_mb=512, seconds_per_file=seconds), decoder=BAD) as reader:
        answers = [reader.frames(each, range(6)) for each in ("good", name, "good", name, "good")]
        for k, answer in enumerate(answers):
            frames, why = seen(answer)
            if k % 2:
                assert frames == [0, 1, 2]
                assert reason in why
            else:
                assert frames == [0, 1, 2, 3, 4, 5] and why is None


def test_however_many_frames_are_wanted_a_file_has_its_time_and_no_more():
    """Requests that are longer than what the decoder's socket takes, behind one at which the decoder hangs."""
    wanted = range(300_000)
    with open_reader(data_limits(seconds_per_file=3), decoder=BAD) as reader:
        answers = [reader.frames(each, wanted) for each in ("hang", "good", "hang", "good", "good")]
        for answer, frames in zip(answers, ([0, 1, 2], list(range(30))) * 2, strict=False):
            assert seen(answer)[0] == frames


@pytest.mark.parametrize(("name", "again"), [("killed", True), ("bloat", True), ("hang", True), ("bad", False)])
def test_what_may_be_no_fault_of_the_file_is_told(name, again):
    seconds = 3 if name == "hang" else 60
    with (
        open_reader(data_limits(decoder_memory_mb=512, seconds_per_file=seconds), decoder=BAD) as reader,
        pytest.raises(MediaError) as caught,
    ):
        list(reader.frames(name, range(6)))
    assert caught.value.again == again


def test_what_the_system_does_not_give_is_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with open_reader(data_limits()) as reader:
        for ask in (reader.photo, reader.probe_photo, reader.probe_video):
            for name, again in (("nowhere", True), ("a.jpg", False)):
                with pytest.raises(MediaError) as caught:
                    ask(tmp_path / name)
                assert caught.value.again == again


@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(0, 6)), max_size=40),
)
def test_what_lies_in_the_ring_is_not_overwritten(steps):
    size, used = 100, collections.deque()
    for n_bytes, n_taken in steps:
        offset = place_in_ring(used, n_bytes, size)
        if offset is None:
            assert used
        else:
            assert all(offset + n_bytes <= o or o + n <= offset for o, n in used)
            assert offset >= 0 and (offset + n_bytes <= size or not used)
            used.append((offset, n_bytes))
        for _ in range(min(n_taken, len(used))):
            used.popleft()


def test_a_large_picture_goes_alone_and_gives_its_memory_back():
    with open_reader(data_limits(), decoder=BAD) as reader:
        answers = [reader.frames(name, range(2)) for name in ("good-large", "good", "good-large")]
        for answer in answers:  # 72 MB each, more than the ring
            assert seen(answer) == ([0, 1], None)
        assert os.fstat(reader._memory).st_size <= RING_BYTES


def test_decoding_goes_on_while_the_caller_works():
    with open_reader(data_limits(), decoder=BAD) as reader:
        answers = [reader.frames("good", range(6)), reader.frames("slow", range(6))]
        assert seen(answers[0]) == ([0, 1, 2, 3, 4, 5], None)
        deadline = time.monotonic() + 30
        while not reader._connection.poll() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert reader._connection.poll()  # the second file's frames are there before anyone asked for them
        assert seen(answers[1]) == ([0, 1, 2, 3, 4, 5], None)


def test_the_ring_bounds_what_is_decoded_ahead():
    with open_reader(data_limits(), decoder=BAD) as reader:
        answers = [reader.frames("good", range(30)) for _ in range(40)]  # 1200 pictures, 64 of which may lie ready
        time.sleep(1)
        assert os.fstat(reader._memory).st_size <= RING_BYTES
        for answer in answers:
            assert seen(answer) == (list(range(30)), None)


def test_waiting_for_a_slow_caller_is_not_the_files_time():
    with open_reader(data_limits(seconds_per_file=4), decoder=BAD) as reader:
        answer = reader.frames("good-large", range(3))
        for index in range(3):
            assert next(answer)[0] == index
            time.sleep(2)


def test_a_later_answer_passes_over_those_before():
    with open_reader(data_limits(seconds_per_file=3), decoder=BAD) as reader:
        first, hangs, third, never_read = (reader.frames(name, range(30)) for name in ("good", "hang", "good", "good"))
        assert next(first)[0] == 0
        assert seen(third) == (list(range(30)), None)
        for passed_over in (first, hangs):
            with pytest.raises(RuntimeError, match="passed over"):
                next(passed_over)
        assert seen(third) == ([], None)
        assert next(never_read)[0] == 0
    with pytest.raises(RuntimeError):
        next(never_read)


def test_errors_of_pictures_and_missing_files_come_as_they_are(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with open_reader(data_limits(max_pixels=100, max_frames=5)) as reader:
        for ask, message in (
            (reader.photo, "not a readable picture"),
            (reader.probe_photo, "not a readable picture"),
            (reader.probe_video, "not a readable video"),
        ):
            with pytest.raises(MediaError, match=message):
                ask(tmp_path / "a.jpg")
            with pytest.raises(MediaError):
                ask(tmp_path / "nowhere")
        Image.new("RGB", (20, 20)).save(tmp_path / "large.png")
        with pytest.raises(MediaError, match=r"20 x 20 pixels, more than data.max_pixels \(100\)"):
            reader.photo(tmp_path / "large.png")
    video = write_video(tmp_path / "a.mp4", numbered_frames(8))
    with open_reader(data_limits(max_frames=5)) as reader:
        with pytest.raises(MediaError, match=r"data.max_frames \(5\)"):
            reader.probe_video(video)
        assert [index for index, _ in reader.frames(video, range(8))] == [0, 1, 2, 3, 4]


def test_what_the_decoder_logs_is_in_the_callers_log(caplog):
    with open_reader(data_limits(), decoder=BAD) as reader, caplog.at_level("WARNING"):
        assert seen(reader.frames("tells", range(6)))[1] is None
    assert [(record.name, record.getMessage().rpartition("/")[2]) for record in caplog.records] == [
        ("media", "tells: mind this")
    ]


def test_names_of_any_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_reader(data_limits()) as reader:
        for name in ("-dash.png", "new\nline.png", "käse.png", os.fsdecode(b"\xff.png"), "quote'\".png"):
            Image.new("RGB", (3, 2)).save(name)
            assert reader.photo(name).shape == (2, 3, 3)


def test_a_decoder_that_does_not_start_is_no_fault_of_the_file():
    with (
        pytest.raises(UserError, match="does not start"),
        open_reader(data_limits(), decoder="shared.nothing") as reader,
    ):
        reader.photo("a.png")


CALLER = """
import sys, time
from shared.reader import open_reader
from tests.conftest import PROJECT, data_limits
with open_reader(data_limits(), decoder="tests.shared.bad_decoder") as reader:
    answer = reader.frames(sys.argv[1], range(6))
    for _ in range(3):
        next(answer)
    print(reader._process.pid, flush=True)
    next(answer)
"""


def state_of(pid):
    """The process's state letter, 'gone' where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
    except OSError:
        return "gone"


@pytest.mark.parametrize(
    ("name", "how"),
    [("hang", signal.SIGKILL), ("stuck", signal.SIGKILL), ("stuck", signal.SIGTERM), ("hang", signal.SIGINT)],
)
def test_the_decoder_ends_with_its_caller(name, how):
    """Whatever it is doing, and it leaves nothing in shared memory."""
    before = set(os.listdir("/dev/shm"))
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, name], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    decoder = int(caller.stdout.readline())
    assert state_of(decoder) not in ("gone", "Z")
    caller.send_signal(how)
    caller.wait(30)
    deadline = time.monotonic() + 10
    while state_of(decoder) not in ("gone", "Z") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert state_of(decoder) in ("gone", "Z")  # a zombie is its adopter's to bury
    if how == signal.SIGINT:
        assert caller.stderr.read().count("Traceback") == 1  # the caller's own, none of the decoder
    assert not {each for each in set(os.listdir("/dev/shm")) - before if "pictures" in each}


def test_a_pause_is_not_the_files_time():
    """Caller and decoder are stopped for longer than data.seconds_per_file, and the caller goes on first."""
    code = CALLER.replace("data_limits()", "data_limits(seconds_per_file=4)")
    caller = subprocess.Popen([sys.executable, "-c", code, "slow"], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    decoder = int(caller.stdout.readline())
    os.kill(decoder, signal.SIGSTOP)
    time.sleep(0.3)  # the caller waits now
    caller.send_signal(signal.SIGSTOP)
    time.sleep(5)
    caller.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    os.kill(decoder, signal.SIGCONT)
    assert caller.wait(30) == 0


def test_closing_leaves_no_process_and_no_open_file():
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for name in ("good", "hang", "crash"):
        with open_reader(data_limits(), decoder=BAD) as reader:
            answer = reader.frames(name, range(6))
            assert [next(answer)[0] for _ in range(3)] == [0, 1, 2]
            decoder = reader._process.pid
            if name == "crash":
                assert seen(answer)[1]
        assert state_of(decoder) == "gone"
    assert open_files() == before
