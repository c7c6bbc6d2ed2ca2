"""Places of pictures in display order, told by headers, against plain decoding; and frames read by them, pixel by pixel."""

import itertools

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import media
from shared.display_order import HEADERS, Unclear, higher_part, pictures_to_decode, place_pictures
from shared.media import read_frames
from tests.drawing import set_display_matrix, write_video

MANY, N_FRAMES = 10**8, 70


def moving_frames(n_frames=N_FRAMES, height=64, width=96):
    """A noisy texture that moves, so that every frame differs and B-frames pay."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height + 80, width + 80, 3)).astype(np.uint8)
    texture = np.kron(texture[::4, ::4], np.ones((4, 4, 1), np.uint8))[: height + 80, : width + 80]
    for k in range(n_frames):
        yield np.ascontiguousarray(texture[k : k + height, k // 2 : k // 2 + width])


def every_frame(path):
    """All frames that plain decoding gives, as (image_rgb, presentation time)."""
    with av.open(str(path)) as file:
        frames = []
        for frame in file.decode(video=0):
            image_rgb = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
            frames.append((image_rgb, frame.pts))
        return frames


def pictures_of(path, last=10**9, most_pictures=256, most_bytes=2**25):
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        headers = HEADERS[stream.codec_context.name](bytes(stream.codec_context.extradata or b""))
        return list(place_pictures(file.demux(stream), headers.read, last, most_pictures, most_bytes))


X264 = {"crf": "30", "g": "24"}
X265 = {"crf": "35", "preset": "ultrafast", "x265-params": "log-level=none:keyint=24:pools=1:frame-threads=1"}
STREAMS = {  # file name -> write_video's arguments; the least share of pictures that nobody refers to
    "pyramid.mp4": ({"options": {**X264, "bf": "3", "b-pyramid": "normal", "b_strategy": "0"}}, 0.4),
    "deep-pyramid.mkv": ({"options": {**X264, "bf": "7", "b-pyramid": "normal", "refs": "5", "b_strategy": "0"}}, 0.4),
    "no-pyramid.mp4": ({"options": {**X264, "bf": "3", "b-pyramid": "none", "b_strategy": "0"}}, 0.6),
    "open-gop.mp4": ({"options": {**X264, "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}}, 0.3),
    "no-b-frames.mp4": ({"options": {**X264, "bf": "0"}}, 0),
    "intra.mov": ({"options": {"crf": "30", "g": "1"}}, 0),
    "slices.mp4": ({"options": {**X264, "bf": "2", "slices": "4"}}, 0.3),
    "baseline.mp4": ({"options": {**X264, "profile": "baseline"}}, 0),
    "high10.mp4": ({"options": {**X264, "bf": "3"}, "pixels": "yuv420p10le"}, 0.2),
    "high444.mkv": ({"options": {**X264, "bf": "3"}, "pixels": "yuv444p"}, 0.2),
    "stream.ts": ({"options": {**X264, "bf": "3"}}, 0.2),
    "video.flv": ({"options": {**X264, "bf": "3"}}, 0.2),
    "fragments.mp4": ({"options": {**X264, "bf": "3"}, "container": {"movflags": "frag_keyframe+empty_moov"}}, 0.2),
    "hevc.mp4": ({"codec": "libx265", "options": X265}, 0.2),
    "hevc.ts": ({"codec": "libx265", "options": X265}, 0.2),
    "hevc-deep.mkv": (
        {
            "codec": "libx265",
            "options": {**X265, "x265-params": X265["x265-params"] + ":bframes=4:b-adapt=0:open-gop=0"},
        },
        0.4,
    ),
    "hevc-layers.mp4": (
        {"codec": "libx265", "options": {**X265, "x265-params": X265["x265-params"] + ":temporal-layers=3:b-adapt=0"}},
        0.2,
    ),
}
PLAIN = {  # decoded whole
    "interlaced.mp4": {"options": {**X264, "bf": "3", "x264-params": "interlaced=1"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "h264.avi": {"options": {**X264, "bf": "3"}},
}
WANTED = [
    range(0, N_FRAMES, 20),
    range(5, N_FRAMES + 30, 9),
    [N_FRAMES - 1],
    [1],
    [47],
    [23, 24, 25],
    [*range(30, 36), 60],
    range(N_FRAMES),
    [0, N_FRAMES + 5],
    [N_FRAMES + 5],
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A function that writes a video of this page once and gives its path and its frames."""
    folder, known = tmp_path_factory.mktemp("videos"), {}

    def video(name):
        if name not in known:
            arguments = STREAMS[name][0] if name in STREAMS else PLAIN[name]
            try:
                av.Codec(arguments.get("codec", "libx264"), "w")
            except av.codec.codec.UnknownCodecError:
                pytest.skip(f"this PyAV has no encoder {arguments['codec']}")
            path = write_video(folder / name, moving_frames(), **arguments)
            known[name] = path, every_frame(path)
        return known[name]

    return video


@pytest.mark.parametrize("name", STREAMS)
def test_places_are_those_of_plain_decoding(videos, name):
    path, frames = videos(name)
    pictures = pictures_of(path)
    places = {picture.packet.pts: picture.index for picture in pictures}
    assert [places[pts] for _, pts in frames] == list(range(len(frames))) and len(pictures) == len(frames)
    unreferred = sum(not picture.header.referred for picture in pictures) / len(pictures)
    assert STREAMS[name][1] <= unreferred <= (0.8 if STREAMS[name][1] else 0)


@pytest.mark.parametrize("name", [*STREAMS, *PLAIN])
def test_frames_are_those_of_plain_decoding(videos, name):
    path, frames = videos(name)
    for wanted in WANTED:
        got = list(read_frames(path, wanted, MANY))
        assert [index for index, _ in got] == [k for k in wanted if k < len(frames)]
        assert all(np.array_equal(image_rgb, frames[index][0]) for index, image_rgb in got), list(wanted)


def decoded(monkeypatch):
    """The packets that read_frames gives to the decoder from now on."""
    fed, decode = [], media._frames_needed

    def watched(codec, packets, wanted):
        class Codec:
            name, extradata, copy_opaque = codec.name, codec.extradata, True

            @staticmethod
            def decode(packet):
                codec.copy_opaque = True
                fed.append(packet)
                return codec.decode(packet)

        return decode(Codec, packets, wanted)

    monkeypatch.setattr(media, "_frames_needed", watched)
    return fed


@pytest.mark.parametrize(
    ("name", "wanted", "most"),
    [
        ("no-pyramid.mp4", [0, 60], 32),  # 24 pictures with a key before; of each 4 pictures 3 are left out
        ("intra.mov", [3, 40, 69], 3),
        ("no-b-frames.mp4", [50], 3),  # pictures 48 to 50
        ("pyramid.mp4", [2000], 0),  # the video's end is seen before its pictures are decoded
        ("hevc-deep.mkv", [0, 60], 24),
    ],
)
def test_what_nobody_needs_is_not_decoded(videos, monkeypatch, name, wanted, most):
    path, frames = videos(name)
    fed = decoded(monkeypatch)
    got = dict(read_frames(path, wanted, MANY))
    assert list(got) == [k for k in wanted if k < len(frames)]
    assert len([packet for packet in fed if packet]) <= most


@pytest.mark.parametrize("name", ["interlaced.mp4"])
def test_what_headers_do_not_settle_is_decoded_whole(videos, name):
    with pytest.raises(Unclear):
        pictures_of(videos(name)[0])


@pytest.mark.parametrize(("most_pictures", "most_bytes"), [(40, 2**30), (256, 1)])
def test_a_short_look_ahead_gives_the_same_places(videos, most_pictures, most_bytes):
    path, _ = videos("deep-pyramid.mkv")
    whole = [picture.index for picture in pictures_of(path)]
    assert [picture.index for picture in pictures_of(path, N_FRAMES, most_pictures, most_bytes)] == whole


def remux(path, out, change):
    """A copy of the video's packets into another file, each changed or, by None, left out."""
    with av.open(str(path)) as source, av.open(str(out), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for k, packet in enumerate(source.demux(video=0)):
            if packet.size and (packet := change(k, packet)) is not None:
                packet.stream = stream
                file.mux(packet)
    return out


def test_a_variable_frame_rate_changes_no_place(videos, tmp_path):
    path, frames = videos("pyramid.mp4")

    def slower(k, packet):
        packet.pts, packet.dts = packet.pts * (1 + packet.pts // 9000), packet.dts * (1 + max(0, packet.dts) // 9000)
        return packet

    varied = remux(path, tmp_path / "varied.mkv", slower)
    got = dict(read_frames(varied, range(0, N_FRAMES, 9), MANY))
    assert list(got) == list(range(0, N_FRAMES, 9))
    assert all(np.array_equal(got[k], frames[k][0]) for k in got)


def test_times_that_contradict_the_headers_are_not_trusted(videos, tmp_path):
    """Times in decoding order, as a file without composition times has them: counting is what remains."""

    def in_decoding_order(k, packet):
        packet.pts = packet.dts = k * 512
        return packet

    path = remux(videos("pyramid.mp4")[0], tmp_path / "untimed.mp4", in_decoding_order)
    with pytest.raises(Unclear):
        pictures_of(path)
    frames = every_frame(path)
    got = dict(read_frames(path, range(0, N_FRAMES, 9), MANY))
    assert list(got) == list(range(0, len(frames), 9))
    assert all(np.array_equal(got[k], frames[k][0]) for k in got)


def test_a_video_that_lacks_packets_is_read_as_plain_decoding_reads_it(videos, tmp_path):
    for lost in (1, 30, 40):  # among them pictures that others refer to
        path = remux(
            videos("pyramid.mp4")[0],
            tmp_path / f"{lost}.mkv",
            lambda k, packet, lost=lost: None if k == lost else packet,
        )
        frames = every_frame(path)
        got = dict(read_frames(path, range(2, N_FRAMES, 7), MANY))
        assert all(np.array_equal(got[k], frames[k][0]) for k in got if k < len(frames))
        assert [k for k in got if k < len(frames)] == list(range(2, len(frames), 7))


def test_a_size_that_changes_within_the_video(tmp_path):
    paths = [
        write_video(tmp_path / f"{k}.ts", moving_frames(30, *size), options={**X264, "bf": "3"})
        for k, size in enumerate([(64, 96), (96, 64)])
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(path.read_bytes() for path in paths))
    frames = every_frame(tmp_path / "both.ts")
    assert len({image_rgb.shape for image_rgb, _ in frames}) == 2
    wanted = [0, 10, 29, 30, 45, len(frames) - 1]
    got = dict(read_frames(tmp_path / "both.ts", wanted, MANY))
    assert list(got) == sorted({k for k in wanted if k < len(frames)})
    assert all(np.array_equal(got[k], frames[k][0]) for k in got)


def test_turned_frames_are_the_same(tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_frames(), options={**X264, "bf": "3"})
    set_display_matrix(path, (0, 1, -1, 0))
    frames = every_frame(path)
    got = dict(read_frames(path, [5, 33], MANY))
    assert got[5].shape == (96, 64, 3) and all(np.array_equal(got[k], frames[k][0]) for k in (5, 33))


def test_damage_in_a_picture_gives_no_wrong_frame(videos, tmp_path):
    """Bytes overwritten anywhere: frames before the place are right, and whatever comes has the place that counting gives it."""
    path, frames = videos("stream.ts")
    data = path.read_bytes()
    for place in range(len(data) // 4, len(data), len(data) // 7):
        broken = tmp_path / f"{place}.ts"
        broken.write_bytes(data[:place] + bytes(150) + data[place + 150 :])
        for index, image_rgb in read_frames(broken, [1, 2], MANY):
            assert np.array_equal(image_rgb, frames[index][0])


@given(st.binary(max_size=300), st.sampled_from(["h264", "hevc"]), st.booleans())
def test_any_bytes_are_read_or_unclear(data, codec, as_extradata):
    try:
        if as_extradata:
            HEADERS[codec](data)
        else:
            HEADERS[codec](b"").read(data)
    except Unclear:
        pass


@given(st.data())
def test_changed_parameters_are_read_or_unclear(videos_bytes, data):
    codec, extradata, packet = data.draw(st.sampled_from(videos_bytes))
    changed = bytearray(extradata), bytearray(packet[:200])
    for _ in range(data.draw(st.integers(1, 4))):
        part = changed[data.draw(st.integers(0, 1))]
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    try:
        HEADERS[codec](bytes(changed[0])).read(bytes(changed[1]))
    except Unclear:
        pass


@pytest.fixture(scope="module")
def videos_bytes(videos):
    found = []
    for name in ("pyramid.mp4", "stream.ts", "hevc.mp4"):
        with av.open(str(videos(name)[0])) as file:
            codec = file.streams.video[0].codec_context
            found += [
                (codec.name, bytes(codec.extradata), bytes(packet))
                for packet in itertools.islice(file.demux(video=0), 3)
            ]
    return found


@given(st.integers(-1000, 1000), st.integers(4, 8), st.integers(-7, 7))
def test_the_higher_part_of_an_order_count(before, n_bits, step):
    size = 1 << n_bits
    order = before + step
    lower_before = before % size
    assert higher_part(order % size, before - lower_before, lower_before, size) + order % size == order


class Fake:
    """A picture for the choice of what to decode."""

    def __init__(self, index, referred, sequence):
        self.index, self.sequence = index, sequence
        self.header = type("Header", (), {"referred": referred})


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_everything_that_a_wanted_picture_needs_is_decoded(groups, data):
    """Groups of pictures in display order, every (n + 1)th referred to: a wanted one needs the referred ones before it in its group."""
    pictures, start = [], 0
    for size, n_between in groups:
        sequence = type("Sequence", (), {"end": start + size if data.draw(st.booleans()) else None})
        pictures += [Fake(start + k, k % (n_between + 1) == 0, sequence) for k in range(size)]
        start += size
    wanted = data.draw(st.sets(st.integers(0, start + 3), min_size=1))
    chosen = {picture.index for picture in pictures_to_decode(pictures, wanted)}
    assert {index for index in wanted if index < start} <= chosen
    start = 0
    for size, n_between in groups:
        inside = [index for index in wanted if start <= index < start + size]
        needed = {start + k for k in range(0, max(inside) - start if inside else 0, n_between + 1)}
        assert needed <= chosen
        start += size
