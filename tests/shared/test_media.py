"""The reader of pictures and videos against hand-made files, OpenCV and PyAV."""

import contextlib
import errno
import gc
import itertools
import json
import os
import struct
import subprocess
import zlib
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from PIL import Image

from shared import media
from shared.media import VIDEO_FORMATS, MediaError, probe_photo, probe_video, read_frames, read_photo
from shared.reader import open_reader
from tests.conftest import data_limits
from tests.drawing import (
    HEIGHT,
    N_FRAMES,
    WIDTH,
    number_of,
    numbered_frame,
    numbered_frames,
    set_display_matrix,
    write_video,
)

MANY = 10**8
DECODER = Path(os.environ.get("VID2SHOP_DECODER", "no-folder"))  # troublesome videos, and expected.json about them
EXPECTED = json.loads((DECODER / "expected.json").read_text(encoding="utf-8")) if DECODER.is_dir() else {}


def probe(path, max_pixels, max_frames=1000):
    return probe_video(path, max_pixels, max_frames)


def upright_picture():
    """40 x 24 in four colours of 8-pixel blocks: no turn or mirror image of it is equal to it, and JPEG keeps it well."""
    image = np.full((40, 24, 3), (200, 200, 200), np.uint8)
    image[:8] = (220, 30, 30)
    image[:, :8] = (30, 30, 220)
    image[8:16, 8:16] = (30, 180, 30)
    return image


STORED = {  # how a picture lies in the file under each EXIF orientation (what stands at row 0 and at column 0)
    1: lambda image: image,  # top, left
    2: lambda image: image[:, ::-1],  # top, right
    3: lambda image: image[::-1, ::-1],  # bottom, right
    4: lambda image: image[::-1],  # bottom, left
    5: lambda image: image.transpose(1, 0, 2),  # left, top
    6: lambda image: image[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda image: image[::-1].transpose(1, 0, 2),  # left, bottom
}


def save_turned(path, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright_picture()))).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientations(tmp_path, orientation):
    path = save_turned(tmp_path / "turned.jpg", orientation, quality=95, subsampling=0)
    image = read_photo(path, MANY)
    assert image.dtype == np.uint8 and image.shape == (40, 24, 3)
    assert np.abs(image.astype(int) - upright_picture()).mean() < 2
    by_opencv = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - by_opencv).mean() < 2
    info = probe_photo(path, MANY)
    assert (info.height, info.width, info.n_frames) == (40, 24, 1)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_in_other_formats(tmp_path, suffix, orientation):
    path = save_turned(tmp_path / f"turned{suffix}", orientation, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_photo(path, MANY), upright_picture())
    info = probe_photo(path, MANY)
    assert (info.height, info.width) == (40, 24)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.bmp", {}), ("a.tiff", {}), ("a.webp", {"lossless": True}), ("a.JPG", {"quality": 95})],
)
def test_formats(tmp_path, name, options):
    Image.fromarray(upright_picture()).save(tmp_path / name, **options)
    image = read_photo(tmp_path / name, MANY)
    error = np.abs(image.astype(int) - upright_picture()).max()
    assert error == 0 if name != "a.JPG" else np.abs(image.astype(int) - upright_picture()).mean() < 5
    assert image.flags.writeable and image.flags.c_contiguous


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((4, 3, 4), np.uint8)
    pixels[0] = (200, 0, 0, 255)  # opaque
    pixels[1] = (200, 0, 0, 0)  # not to be seen
    pixels[2] = (200, 0, 100, 128)  # half
    pixels[3] = (0, 0, 0, 51)  # a fifth
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_photo(tmp_path / "a.png", MANY).astype(int)
    alpha = pixels[..., 3:] / 255
    assert np.abs(image - (alpha * pixels[..., :3] + (1 - alpha) * 255)).max() <= 1


def test_transparent_grey_and_palette(tmp_path):
    Image.fromarray(np.uint8([[[100, 255], [100, 0]]])).save(tmp_path / "la.png")
    assert read_photo(tmp_path / "la.png", MANY).tolist() == [[[100] * 3, [255] * 3]]
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for x in range(3):
        picture.putpixel((x, 0), x)
    picture.save(tmp_path / "opaque.png")
    picture.save(tmp_path / "see.png", transparency=1)
    picture.save(tmp_path / "see.gif", transparency=1)
    assert read_photo(tmp_path / "opaque.png", MANY).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert read_photo(tmp_path / "see.png", MANY).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    assert read_photo(tmp_path / "see.gif", MANY).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_one_bit_and_grey(tmp_path):
    Image.fromarray(np.uint8([[0, 255]])).convert("1").save(tmp_path / "bit.png")
    Image.fromarray(np.uint8([[0, 77]])).save(tmp_path / "grey.png")
    assert read_photo(tmp_path / "bit.png", MANY).tolist() == [[[0] * 3, [255] * 3]]
    assert read_photo(tmp_path / "grey.png", MANY).tolist() == [[[0] * 3, [77] * 3]]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("top", [65535, 30000, 255], ids=["full", "half", "dark"])
def test_sixteen_bits_are_reduced_to_eight(tmp_path, suffix, top):
    values = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), values)
    image = read_photo(tmp_path / f"grey{suffix}", MANY)
    assert np.abs(image - (values / 65535 * 255)[..., None]).max() <= 1


def test_sixteen_bit_colours(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "colour.png"), values[..., ::-1])
    assert np.abs(read_photo(tmp_path / "colour.png", MANY) - values / 65535 * 255).max() <= 1


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 255, 0), (0, 255, 0)),
        ((0, 0, 0, 102), (153, 153, 153)),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_cmyk(tmp_path, ink, colour, suffix):
    Image.new("CMYK", (16, 16), ink).save(tmp_path / f"a{suffix}")
    image = read_photo(tmp_path / f"a{suffix}", MANY)
    assert image.shape == (16, 16, 3) and np.abs(image.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="not a readable picture"):
        read_photo(path, MANY)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
@pytest.mark.parametrize("read", [read_photo, probe_photo])
def test_what_is_no_picture_is_refused(tmp_path, content, read):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(MediaError):
        read(tmp_path / "a.jpg", MANY)


@pytest.mark.parametrize(
    "read", [read_photo, probe_photo, probe, lambda path, most: list(read_frames(path, [0], most))]
)
def test_a_missing_file_is_refused(tmp_path, read):
    with pytest.raises(MediaError):
        read(tmp_path / "nowhere", MANY)


@pytest.mark.parametrize("read", [read_photo, probe_photo])
def test_too_many_pixels_are_refused_by_the_header(tmp_path, read):
    header = struct.pack(">IIBBBBB", 60_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    with pytest.raises(MediaError, match=r"60000 x 50000 .*data\.max_pixels \(1000000\)"):
        read(tmp_path / "bomb.png", 1_000_000)


def test_the_limit_itself_is_allowed(tmp_path):
    Image.new("RGB", (10, 20)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png", 200).shape == (20, 10, 3)
    with pytest.raises(MediaError):
        read_photo(tmp_path / "a.png", 199)
    video = write_video(tmp_path / "a.mp4", numbered_frames(2))
    assert len(list(read_frames(video, [0], WIDTH * HEIGHT))) == 1
    assert probe(video, WIDTH * HEIGHT).width == WIDTH
    for read in (probe, lambda path, most: list(read_frames(path, [0], most))):
        with pytest.raises(MediaError, match="max_pixels"):
            read(video, WIDTH * HEIGHT - 1)


VIDEOS = {  # file name: arguments of write_video
    "b-frames.mp4": {},
    "open-gop.mkv": {
        "options": {"bf": "5", "g": "30", "x264-params": "open-gop=1:b-pyramid=normal:bframes=5:b-adapt=0"}
    },
    "all-intra.mov": {"options": {"g": "1"}},
    "stream.ts": {},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "old.avi": {"codec": "mpeg4"},
    "old.mpg": {"codec": "mpeg2video"},
    "old.wmv": {"codec": "wmv2"},
    "old.flv": {"codec": "flv1"},
    "broadcast.mxf": {"codec": "mpeg2video"},
    "vp8.ivf": {"codec": "libvpx"},
    "bare.h264": {},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_the_one_of_its_number(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(), **VIDEOS[name])
    if name == "b-frames.mp4":
        with av.open(str(path)) as file:
            assert PictureType.B in {frame.pict_type for frame in file.decode(video=0)}
    got = list(read_frames(path, range(N_FRAMES), MANY))
    assert [index for index, _ in got] == list(range(N_FRAMES))
    assert [number_of(frame) for _, frame in got] == list(range(N_FRAMES))
    for _, frame in got:
        assert frame.dtype == np.uint8 and frame.shape == (HEIGHT, WIDTH, 3) and frame.flags.c_contiguous


@pytest.mark.parametrize("indices", [[0], [23], [5, 6, 7], [22, 3, 3, 11], (k for k in (4, 9)), {17: "x"}, []])
def test_wanted_frames_come_once_and_rising(tmp_path, indices):
    path = write_video(tmp_path / "a.mp4", numbered_frames())
    indices = indices if not hasattr(indices, "send") else list(indices)
    got = [(index, number_of(frame)) for index, frame in read_frames(path, indices, MANY)]
    assert got == [(k, k) for k in sorted(set(indices))]


def test_a_shorter_video_gives_what_it_has(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(10))
    assert [index for index, _ in read_frames(path, range(0, 100, 4), MANY)] == [0, 4, 8]
    assert list(read_frames(path, [80, 100], MANY)) == []


def test_colours_keep_their_order(tmp_path):
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[:, :32], frame[:, 32:] = (250, 10, 10), (10, 10, 250)
    [(_, image)] = read_frames(write_video(tmp_path / "a.mp4", [frame]), [0], MANY)
    assert np.abs(image[:, 8:24].astype(int) - (250, 10, 10)).mean() < 12
    assert np.abs(image[:, 40:56].astype(int) - (10, 10, 250)).mean() < 12


MATRICES = {  # a, b, c, d of the display matrix (y down), and the upright picture it makes of a stored one
    "upright": ((1, 0, 0, 1), lambda image: image),
    "90 clockwise": ((0, 1, -1, 0), lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)),
    "180": ((-1, 0, 0, -1), lambda image: cv2.rotate(image, cv2.ROTATE_180)),
    "90 counter-clockwise": ((0, -1, 1, 0), lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_frames_are_turned_upright_by_the_display_matrix(tmp_path, name):
    matrix, turn = MATRICES[name]
    path = write_video(tmp_path / "a.mp4", [numbered_frame(37)] * 3, options={"crf": "10"})
    set_display_matrix(path, matrix)
    [(_, image)] = read_frames(path, [1], MANY)
    expected = turn(numbered_frame(37))
    assert image.shape == expected.shape and image.flags.c_contiguous
    assert np.abs(image.astype(int) - expected).mean() < 12
    info = probe(path, MANY)
    assert (info.height, info.width) == expected.shape[:2]


def test_probe_tells_size_frames_and_rate(tmp_path):
    info = probe(write_video(tmp_path / "a.mp4", numbered_frames(), fps=30), MANY)
    assert (info.width, info.height, info.n_frames) == (WIDTH, HEIGHT, N_FRAMES)
    assert info.fps == pytest.approx(30)


def noisy_frames(n_frames):
    """Numbered frames that take many bytes, so that a file of them is nearly all pictures."""
    rng = np.random.default_rng(0)
    noise, where = (
        rng.integers(0, 256, (n_frames, HEIGHT, WIDTH, 3), dtype=np.uint8),
        rng.random((n_frames, HEIGHT, WIDTH, 1)) < 0.3,
    )
    return [np.where(where[k], noise[k], numbered_frame(k)) for k in range(n_frames)]


@pytest.mark.parametrize(
    ("name", "movflags"),
    [("cut.mkv", ""), ("cut.ts", ""), ("cut.mp4", "faststart"), ("cut-fragments.mp4", "frag_keyframe+empty_moov")],
)
def test_a_video_that_breaks_off_gives_the_frames_before(tmp_path, name, movflags):
    path = write_video(tmp_path / name, noisy_frames(60), container={"movflags": movflags} if movflags else {})
    size = path.stat().st_size * 6 // 10
    with av.open(str(path)) as file:
        whole = sum(packet.size > 0 and packet.pos + packet.size <= size for packet in file.demux(video=0))
    path.write_bytes(path.read_bytes()[:size])
    got = [(index, number_of(frame)) for index, frame in read_frames(path, range(60), MANY)]
    assert whole - 4 <= len(got) <= whole + 1  # three B-frames may still wait for the picture that they refer to
    assert [index for index, _ in got] == list(range(len(got)))
    assert all(index == number for index, number in got[: whole - 4])
    assert probe(path, MANY).width == WIDTH


def test_a_picture_that_claims_more_than_there_is_memory_breaks_a_video_off(tmp_path):
    path = write_video(tmp_path / "a.ivf", numbered_frames(30), codec="libvpx-vp9")
    data, place = bytearray(path.read_bytes()), 32  # the file's header; each picture has its size and then 8 bytes before it
    for _ in range(20):
        place += 12 + struct.unpack_from("<I", data, place)[0]
    struct.pack_into("<I", data, place, 2**32 - 1)
    path.write_bytes(data)
    got = [(index, number_of(frame)) for index, frame in read_frames(path, range(30), MANY)]
    assert got == [(k, k) for k in range(20)]


FAILING_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int file, void *bytes, size_t n) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "on-a-failing-disk")) {
        off_t place = lseek(file, 0, SEEK_CUR), from = atol(getenv("FAILS_FROM")), to = atol(getenv("FAILS_TO"));
        if (from <= place && place < to) {
            errno = EIO;
            return -1;
        }
        if (place < from && from < to && place + (off_t)n > from) n = from - place;
    }
    return ((ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read"))(file, bytes, n);
}
"""


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory):
    """A library for LD_PRELOAD: of files with on-a-failing-disk in their path the bytes FAILS_FROM to FAILS_TO are not given."""
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-", "-ldl"]
    try:
        subprocess.run(command, input=FAILING_DISK, text=True, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a C compiler ({error})")
    return library


@pytest.mark.parametrize(
    ("name", "movflags", "codec"),
    [
        ("a.mkv", "", "libx264"),
        ("a.mp4", "faststart", "libx264"),
        ("vp9.mp4", "faststart", "libvpx-vp9"),
        ("index-at-the-end.mp4", "", "libx264"),
        ("a.rm", "", "rv10"),
        ("a.obu", "", "libsvtav1"),
        ("large.mp4", "faststart", "libx264"),  # whose packets are longer than what FFmpeg reads at once
    ],
)
def test_a_disk_that_fails_within_a_video_is_no_break_of_it(tmp_path, monkeypatch, failing_disk, name, movflags, codec):
    (tmp_path / "on-a-failing-disk").mkdir()
    frames = noisy_frames(30)
    if name.startswith("large"):
        frames = [np.tile(frame, (9, 15, 1)) for frame in frames[:8]]
    path = write_video(
        tmp_path / "on-a-failing-disk" / name,
        [cv2.resize(frame, (176, 144)) for frame in frames] if codec == "rv10" else frames,
        codec=codec,
        container={"movflags": movflags} if movflags else {},
    )
    n_bytes, n_frames = path.stat().st_size, len(frames)
    whole = dict(read_frames(path, range(n_frames), MANY))
    monkeypatch.setenv("LD_PRELOAD", str(failing_disk))
    n_failed = 0
    for fails_from, n_lost in ((0, 0), (40, n_bytes), (n_bytes // 3, 4096), (n_bytes * 6 // 10, n_bytes), (n_bytes - 5000, n_bytes)):
        monkeypatch.setenv("FAILS_FROM", str(fails_from))
        monkeypatch.setenv("FAILS_TO", str(fails_from + n_lost))
        with open_reader(data_limits()) as reader:
            for wanted in (range(n_frames), range(1, n_frames, 4)):
                got, fault = [], None
                try:
                    for index, image_rgb in reader.frames(path, wanted):
                        assert np.array_equal(image_rgb, whole[index])
                        got.append(index)
                except MediaError as error:
                    fault = error
                    n_failed += 1
                assert got == list(wanted)[: len(got)]
                assert fault.again if fault else len(got) == len(wanted)
            if not n_lost:
                assert not n_failed and reader.probe_video(path).n_frames == n_frames
                continue
            with pytest.raises(MediaError) as caught:
                reader.probe_video(path)
            assert caught.value.again
    assert n_failed >= 6  # of 8: what was wanted may lie before the bytes that are lost


def test_at_a_break_the_bytes_are_read_that_the_decoder_may_have_stumbled_over(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", noisy_frames(100), container={"movflags": "faststart"})
    ranges = []
    monkeypatch.setattr(media, "_read", lambda path, place, n_bytes: ranges.append((place, place + n_bytes)))
    with av.open(str(path)) as file:
        packets = media._Packets(path, file, file.streams.video[0])
        places = [(packet.pos, packet.pos + packet.size) for packet in itertools.islice(packets, 90)]
        packets.break_off(av.InvalidDataError(1094995529, "Invalid data found when processing input"))
    [(first, last)] = ranges
    assert first <= min(start for start, _ in places[-32:]) and max(end for _, end in places) <= last
    assert first > places[10][0]  # and not all that came before


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("fault", "lost"),
    [
        (av.error.OSError(errno.EIO, "Input/output error"), True),
        (av.error.OSError(errno.ESTALE, "Stale file handle"), True),
        (av.InvalidDataError(1094995529, "Invalid data found when processing input"), False),
    ],
)
def test_only_what_the_system_does_not_give_loses_the_frames_before(tmp_path, monkeypatch, codec, fault, lost):
    path = write_video(tmp_path / "a.mp4", numbered_frames(30), codec=codec)

    @contextlib.contextmanager
    def opened(path, max_pixels):
        with open_as_it_is(path, max_pixels) as (container, stream):
            yield SimpleNamespace(demux=lambda stream: packets_and_fault(container, stream)), stream

    def packets_and_fault(container, stream):
        yield from itertools.islice(container.demux(stream), 20)
        raise fault

    open_as_it_is = media._opened
    monkeypatch.setattr(media, "_opened", opened)
    for read, most in (
        (lambda: len(list(read_frames(path, range(30), MANY))), 20),
        (lambda: len(list(read_frames(path, range(0, 30, 2), MANY))), 10),
        (lambda: probe(path, MANY).n_frames, 20),
    ):
        if lost:
            with pytest.raises(MediaError) as caught:
                read()
            assert caught.value.again
        else:
            assert most * 3 // 4 <= read() <= most


def test_garbage_within_a_video_is_survived(tmp_path):
    path = write_video(tmp_path / "a.mkv", noisy_frames(60))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    got = [(index, number_of(frame)) for index, frame in read_frames(path, range(60), MANY)]
    assert got[:12] == [(k, k) for k in range(12)]


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypmp42" + b"\0" * 100])
@pytest.mark.parametrize("read", [probe, lambda path, most: list(read_frames(path, [0], most))])
def test_what_is_no_video_is_refused(tmp_path, content, read):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError):
        read(tmp_path / "a.mp4", MANY)


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile other.ts\n",
    "list.mp4": "ffconcat version 1.0\nfile other.ts\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("read", [probe, lambda path, most: list(read_frames(path, [0], most))])
def test_a_list_of_other_files_is_refused(tmp_path, name, read):
    write_video(tmp_path / "other.ts", numbered_frames(3))
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(MediaError, match="a list of other files"):
        read(tmp_path / name, MANY)


def test_a_name_with_a_placeholder_is_that_picture_alone(tmp_path):
    for name, grey in (("p0.jpg", 0), ("p1.jpg", 50), ("p%d.jpg", 200)):
        Image.new("L", (16, 16), grey).save(tmp_path / name)
    [(_, image_rgb)] = read_frames(tmp_path / "p%d.jpg", [0, 1, 2], MANY)
    assert np.abs(image_rgb.astype(int) - 200).max() <= 3
    assert probe(tmp_path / "p%d.jpg", MANY).n_frames == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".avif", ".jp2", ".ppm"])
def test_a_picture_is_a_video_of_one_frame(tmp_path, suffix):
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / f"a{suffix}")
    (tmp_path / "b.mp4").symlink_to(tmp_path / f"a{suffix}")  # whatever its name says
    for name in (f"a{suffix}", "b.mp4"):
        assert [index for index, _ in read_frames(tmp_path / name, [0, 1], MANY)] == [0]


def test_ffmpeg_knows_the_formats_that_are_let_in():
    assert set(VIDEO_FORMATS) <= av.formats_available


@pytest.mark.parametrize("read", [probe, lambda path, most: list(read_frames(path, [0], most))])
def test_sound_alone_is_refused(tmp_path, read):
    with av.open(str(tmp_path / "a.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
    with pytest.raises(MediaError, match="no video stream"):
        read(tmp_path / "a.wav", MANY)


@pytest.mark.parametrize(
    "name", ["-dash.mp4", "a:b.mp4", "http:x.mp4", "käse 7.mp4", "短袖.mp4", "50%25d#1?.mp4", "pic%03d.mp4"]
)
def test_any_file_name_is_a_name(tmp_path, monkeypatch, name):
    write_video(tmp_path / "plain.mp4", numbered_frames(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name), tmp_path / name):
        assert [index for index, _ in read_frames(path, [0, 2], MANY)] == [0, 2]
        assert probe(path, MANY).n_frames == 3


def plain_frames(path):
    with av.open(f"file:{path}") as file:
        try:
            for frame in file.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
        except av.FFmpegError:
            return


@pytest.mark.skipif(not EXPECTED, reason="VID2SHOP_DECODER names no folder of troublesome videos")
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_troublesome_videos_equal_a_plain_decode(name):
    expected = EXPECTED[name]
    path, n_frames = DECODER / name, expected.get("frames", 0)
    if not n_frames:
        with pytest.raises(MediaError):
            list(read_frames(path, [0], MANY))
        return
    turns = round(expected["rotation"] / 90) % 4
    everything = read_frames(path, range(n_frames + 2), MANY)  # exactly so many: the last is there, one more is not
    sparse = [range(0, n_frames, 20), range(1, n_frames + 2, 7), [n_frames // 2], [n_frames - 1, n_frames]]
    chosen = [dict(read_frames(path, wanted, MANY)) for wanted in sparse]
    assert [list(got) for got in chosen] == [[k for k in wanted if k < n_frames] for wanted in sparse]
    for plain, (index, image_rgb) in itertools.zip_longest(plain_frames(path), everything):
        upright = np.rot90(plain, turns)
        assert np.array_equal(image_rgb, upright)
        assert all(np.array_equal(got[index], upright) for got in chosen if index in got)
    upright_hw = (expected["height"], expected["width"])[:: -1 if turns % 2 else 1]
    info = probe(path, MANY)
    assert chosen[0][0].shape[:2] == (info.height, info.width) == upright_hw
    assert list(upright_hw) == expected.get("opencv_upright_hw", list(upright_hw))
    assert info.n_frames >= n_frames


def test_a_video_of_more_frames_than_allowed_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames(10))
    assert probe_video(path, MANY, 10).n_frames == 10
    with pytest.raises(MediaError, match=r"data\.max_frames \(9\)"):
        probe_video(path, MANY, 9)


def test_of_several_videos_in_a_file_the_first_is_read(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as file:
        streams = [file.add_stream("libx264", rate=25, options={"bf": "2", "g": "6"}) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(20):
            for number, stream in zip((k, 100 + k), streams, strict=True):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    got = [(index, number_of(image_rgb)) for index, image_rgb in read_frames(tmp_path / "two.mkv", [2, 9, 19, 30], MANY)]
    assert got == [(2, 2), (9, 9), (19, 19)]
    assert probe(tmp_path / "two.mkv", MANY).n_frames == 20


def test_reading_leaves_no_thread_and_no_decoder_behind(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered_frames())
    list(read_frames(path, [5, 20], MANY))
    before = len(os.listdir("/proc/self/task"))
    for _ in range(4):
        list(read_frames(path, [5, 20], MANY))
        next(read_frames(path, [5, 20], MANY))  # given up midway
    gc.collect()
    assert len(os.listdir("/proc/self/task")) <= before
