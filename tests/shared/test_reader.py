"""The reader in another process: the same pictures as in this one, and what becomes of files that a decoder does not survive."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.decoder import place_in_ring
from shared.media import MediaError, probe_video, read_frames
from shared.reader import open_reader
from tests.conftest import data_limits
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
        ("hang", "data.seconds_per_file (2 s)"),
        ("stuck", "data.seconds_per_file (2 s)"),
    ],
)
def test_a_file_that_the_decoder_does_not_survive_is_lost_alone(name, reason):
    seconds = 2 if "(2 s" in reason else 60
    with open_reader(data_limits(decoder_memory_mb=512, seconds_per_file=seconds), decoder=BAD) as reader:
        answers = [reader.frames(each, range(6)) for each in ("good", name, "good", name, "good")]
        for k, answer in enumerate(answers):
            frames, why = seen(answer)
            if k % 2:
                assert frames == [0, 1, 2]
                assert reason in why
            else:
                assert frames == [0, 1, 2, 3, 4, 5] and why is None


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
