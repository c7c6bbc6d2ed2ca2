"""The one reader of pictures and videos: upright, RGB, uint8, H x W x 3; frames counted in display order from 0."""

import contextlib
import errno
import heapq
import itertools
import logging
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Discard
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.display_order import HEADERS, Unclear, pictures_to_decode, place_pictures

log = logging.getLogger("media")

av.logging.set_level(None)  # FFmpeg's own notes name no file; what matters is raised as MediaError
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # nor do Pillow's
warnings.filterwarnings("ignore", module=r"PIL\.")
PICTURES_AHEAD, BYTES_AHEAD = 256, 32 * 2**20  # of a video, whose headers are read before the first of them is decoded
INDEX_BYTES = 16 * 2**20  # more than the index of a million frames, or than a picture
PICTURES_IN_DECODER, SPREAD_BYTES = 64, 2**30  # more than wait there for others, and than they lie apart
LAST_BYTES = 2**12  # of a video that came to its end
READ_AT_ONCE = 2**20

Image.MAX_IMAGE_PIXELS = None  # the limit is the config's data.max_pixels, checked before the pixels are decoded

# Pillow can open many more. Some of them start other programs (EPS), hold pictures within pictures (ICO, ICNS) or are told by no
# signature (TGA): what nobody photographs in is not let in. JPEG includes MPO.
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")

# What FFmpeg says when it will not open something, and the system to a place before a file's beginning: the bytes are at fault.
OF_BYTES = {None, errno.EPERM, errno.EINVAL}
# FFmpeg can open many more. Some of them are lists of other files (HLS, concat), which it would open wherever they are and
# for as long as a list grows: only what holds its own pictures is let in, by FFmpeg's names. docs/media.md has them in words.
VIDEO_FORMATS = (
    *("mov", "matroska", "avi", "flv", "mpegts", "mpeg", "ogg", "asf", "gif", "apng", "mxf", "dv", "rm", "nut", "ivf"),
    *("h264", "hevc", "obu", "mpegvideo", "m4v", "mjpeg", "yuv4mpegpipe"),  # streams without a container
    "wav",  # of which is told that it has no pictures
    *("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "j2k_pipe", "ppm_pipe", "pgm_pipe", "pbm_pipe"),
    "image2",  # pictures that FFmpeg knows by their names
)
LET_IN = {
    "format_whitelist": ",".join(VIDEO_FORMATS),
    "protocol_whitelist": "file",
    "pattern_type": "none",  # of image2: p%d.jpg is the picture of that name, not all of p0.jpg, p1.jpg, ...
}


class MediaError(Exception):
    """A picture or video that cannot be read. The message says why; whoever catches it names the file.

    again: whether nothing need be wrong with the file, so that it is worth another try at the next run: the decoder took too
    long, crashed or ran out of memory, or the system did not give the file.
    """

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again

    @classmethod
    def of(cls, kind: str, words: str, error: Exception) -> "MediaError":
        """What `error`, raised by a library that was to read a picture or a video (`kind`), means for the file."""
        return cls(f"not a readable {kind} ({words})", again=_of_system(error) or isinstance(error, MemoryError))

    def entry(self, media_id: str) -> dict:
        """What a manifest's list of what was skipped says of it."""
        return {"media_id": media_id, "reason": str(self), **({"again": True} if self.again else {})}


class NoVideo(MediaError):
    """The bytes that were read are no video. Others may have not been given."""


@dataclass(frozen=True)
class MediaInfo:
    """width, height: upright pixels. n_frames: packets of the video stream (1 for a photo), which for a few codecs with
    hidden frames is a little more than the frames shown. fps: 0 where unknown."""

    width: int
    height: int
    n_frames: int
    fps: float


def read_photo(path: str | Path, max_pixels: int) -> np.ndarray:
    """A photo as image_rgb, EXIF orientation applied, transparency laid on white, 16 bits reduced to 8; of an animation the first
    picture, of a TIFF the first page.

    Raises MediaError where it is no picture of PHOTO_FORMATS, is truncated, or has more than max_pixels.
    """
    with _photo(path, max_pixels) as picture:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I") or picture.mode == "F":
            values = np.nan_to_num(np.asarray(picture, np.float32))
            sixteen_bit = picture.mode.startswith("I;16") or values.max(initial=0) > 255
            grey = values / 257 if sixteen_bit else values  # 65535 / 257 = 255
            picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
        elif picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return np.array(picture.convert("RGB"))


def probe_photo(path: str | Path, max_pixels: int) -> MediaInfo:
    """Upright size of a photo from its header alone. Raises MediaError as `read_photo` does, but does not see truncation."""
    with _photo(path, max_pixels) as picture:
        swapped = picture.getexif().get(0x0112) in (5, 6, 7, 8)  # these EXIF orientations swap the sides
        turned = swapped and picture.format != "TIFF"  # of which Pillow tells the upright size
        width, height = picture.size[::-1] if turned else picture.size
        return MediaInfo(width, height, 1, 0.0)


@contextlib.contextmanager
def _photo(path: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The opened picture, its pixels not decoded yet; whatever goes wrong with it is a MediaError."""
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as picture:
            _refuse_large(picture.width, picture.height, max_pixels)
            yield picture
    except MediaError:
        raise
    except UnidentifiedImageError:
        raise MediaError(f"not a readable picture (expected {', '.join(PHOTO_FORMATS)})") from None
    except Exception as error:  # Pillow's decoders raise whatever the bytes made them stumble over
        words = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        raise MediaError.of("picture", words, error) from None


def read_frames(path: str | Path, indices: Iterable[int], max_pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index, image_rgb) of the wanted frames, rising; a shorter video gives those it has.

    An index is the frame's exact place in display order, as if every frame before it were decoded. Of H.264 and HEVC only
    those are that the wanted ones need, where the headers settle it (`shared.display_order`). A video that breaks off gives
    the frames before the break. Raises MediaError where no frame that is tried can be decoded, where one has more than
    max_pixels, and, perhaps behind some frames, where it is the system that breaks off: a disk or a share that fails.
    """
    wanted, converter = {index for index in indices if index >= 0}, VideoReformatter()
    with _as_media_error(path):
        for index, frame in _wanted_frames(path, wanted, max_pixels):
            _refuse_large(frame.width, frame.height, max_pixels)
            yield index, _upright(frame, converter)


def _wanted_frames(path: str | Path, wanted: set[int], max_pixels: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted frames by the cheapest way that is sure. Raises what FFmpeg raises before the first frame."""
    given = -1
    with _opened(path, max_pixels) as (container, stream):
        packets = _Packets(path, container, stream)
        if len(wanted) <= max(wanted, default=-1) and stream.codec_context.name in HEADERS:
            try:
                for index, frame in _frames_needed(stream.codec_context, packets, wanted):
                    yield index, frame
                    given = index
                packets.tell_break()
                return
            except (Unclear, av.FFmpegError):
                if given == max(wanted):
                    return
                packets.rewind()
        if packets.whole:
            yield from _frames_counted(stream.codec_context, packets, wanted)
            return
    with _opened(path, max_pixels) as (container, stream):
        packets = _Packets(path, container, stream)
        yield from _frames_counted(stream.codec_context, packets, {index for index in wanted if index > given})


def _frames_counted(
    codec: av.VideoCodecContext, packets: "_Packets", wanted: set[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted frames, found by decoding all before them."""
    last, index = max(wanted, default=-1), -1
    try:
        for packet in itertools.chain(packets, [None]):
            for frame in codec.decode(packet):
                index += 1
                if index in wanted:
                    yield index, frame
                if index >= last:
                    return
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        packets.break_off(error)
    if index < 0:
        raise packets.fault or NoVideo("the video has no frames")
    packets.tell_break()


def _frames_needed(
    codec: av.VideoCodecContext, packets: "_Packets", wanted: set[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted frames, found by decoding only what they need. Raises Unclear where a frame is not at its place."""
    headers = HEADERS[codec.name](bytes(codec.extradata or b""))
    codec.copy_opaque = True  # a frame knows its packet's place; the picture itself would hold its packet, and so the codec, for ever
    placed = place_pictures(packets, headers.read, max(wanted), PICTURES_AHEAD, BYTES_AHEAD)
    expected = []  # a heap: places of the frames that are to come
    for picture in itertools.chain(pictures_to_decode(placed, wanted), [None]):
        if picture:
            picture.packet.opaque = picture.index
            if picture.index is not None:
                heapq.heappush(expected, picture.index)
        packets.whole = False
        for frame in codec.decode(picture and picture.packet):
            index = frame.opaque
            if frame.is_corrupt or not expected or heapq.heappop(expected) != index:
                raise Unclear("a frame is missing or damaged")
            if index in wanted:
                yield index, frame
    if expected:
        raise Unclear("a frame is missing")


class _Packets:
    """The packets of a stream, up to where the file breaks off. As long as it is `whole`, reading can begin again.

    Raises OSError, and none of FFmpeg's, where it is the system that does not give what the file has: a disk or a share that fails.
    """

    def __init__(self, path: str | Path, container: av.container.InputContainer, stream: av.VideoStream):
        self._path = path
        self._packets = container.demux(stream)
        self._kept: list[av.Packet] = []
        self._places: deque[int] = deque(maxlen=PICTURES_IN_DECODER)  # in the file, of the last packets
        self.whole = True  # nothing was decoded yet
        self.fault: av.FFmpegError | None = None

    def __iter__(self) -> Iterator[av.Packet]:
        try:
            for packet in self._packets:
                if packet.size:  # the last one is empty
                    if packet.pos is not None:
                        self._places.append(packet.pos)
                    if self.whole:
                        self._kept.append(packet)
                    else:
                        self._kept.clear()
                    yield packet
            _read(self._path, -LAST_BYTES, LAST_BYTES)  # some formats take what is not given for their end
        except IndexError:
            pass  # PyAV's after the last packet, where a stream came up that was not there when the file was opened
        except av.FFmpegError as error:
            if _of_system(error):
                raise OSError(error.errno, error.strerror) from None
            self.break_off(error)

    def break_off(self, fault: av.FFmpegError) -> None:
        """Ends the packets with a fault of the demuxer's or the decoder's, which can be about bytes that were not given."""
        last = max(self._places, default=0)
        first = max(min(self._places, default=0), last - SPREAD_BYTES)
        _read(self._path, first, last - first + INDEX_BYTES)
        self.fault = fault

    def rewind(self) -> None:
        self._packets, self._kept = itertools.chain(self._kept, self._packets), []

    def tell_break(self) -> None:
        if self.fault:
            log.warning("%s: breaks off (%s); the frames before are used", self._path, type(self.fault).__name__)


def probe_video(path: str | Path, max_pixels: int, max_frames: int) -> MediaInfo:
    """Size, frame count and rate of a video, from its packets and its first frame.

    Raises MediaError as `read_frames` does, and where there are more than max_frames.
    """
    with _as_media_error(path), _opened(path, max_pixels) as (container, stream):
        codec, first, n_frames = stream.codec_context, None, 0
        codec.thread_count = 1  # more would each want a packet before the first frame comes
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        packets = _Packets(path, container, stream)
        for packet in packets:
            n_frames += 1
            if n_frames > max_frames:
                raise MediaError(f"more frames than data.max_frames ({max_frames})")
            if first is None:
                first = next(iter(codec.decode(packet)), None)
        first = first or next(iter(codec.decode(None)), None)
        if first is None:
            raise packets.fault or NoVideo("the video has no frames")
        _refuse_large(first.width, first.height, max_pixels)
        turned = _quarter_turns(first) % 2
        width, height = (first.height, first.width) if turned else (first.width, first.height)
        return MediaInfo(width, height, n_frames, fps)


@contextlib.contextmanager
def _as_media_error(path: str | Path) -> Iterator[None]:
    """Makes a MediaError of what FFmpeg and the system raise. Whatever FFmpeg found amiss with the bytes of a file that the
    system does not give, they may be fine: that error is the system's."""
    try:
        try:
            yield
        except (av.FFmpegError, NoVideo) as error:
            if not _of_system(error):
                _read(path, 0, INDEX_BYTES)
                _read(path, -INDEX_BYTES, INDEX_BYTES)
            raise
    except (MemoryError, MediaError):
        raise
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise MediaError.of("video", f"{type(error).__name__}: {error}", error) from None


def _read(path: str | Path, place: int, n_bytes: int) -> None:
    """Reads bytes of a file to no end but OSError, where the system does not give them. A negative place counts from the end."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(min(place, size) if place >= 0 else max(0, size + place))
        while n_bytes > 0 and (block := file.read(min(n_bytes, READ_AT_ONCE))):
            n_bytes -= len(block)


def _of_system(error: Exception) -> bool:
    """Whether it is the system that did not give what was to be read, so that nothing is known of the bytes."""
    return isinstance(error, OSError) and error.errno not in OF_BYTES


@contextlib.contextmanager
def _opened(path: str | Path, max_pixels: int) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The file and its first video stream, which alone is read, to be decoded by two threads."""
    fault = None
    try:
        opened = av.open(_local(path), container_options=LET_IN)
    except av.ArgumentError:  # FFmpeg's word for a format that is not let in
        fault = NoVideo("not a readable video (a list of other files, or a format that is not let in: make it an MP4)")
    except MemoryError:  # FFmpeg gives no header more than 2 GB, and for one that claims more it takes none
        fault = MediaError("not a readable video (its header asks for more memory than there is, or for over 2 GB)", again=True)
    if fault:
        raise fault  # and not above: behind it is no memory that ran out
    with opened as container:
        if not container.streams.video:
            raise NoVideo("the file has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise NoVideo("not a readable video (there is no decoder for its codec)")
        _refuse_large(stream.codec_context.width, stream.codec_context.height, max_pixels)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", 2
        yield container, stream


def _local(path: str | Path) -> str:
    """FFmpeg reads `name:` as a protocol and a leading dash as an option: `file:` in front makes any name a name."""
    return f"file:{path}"


def _quarter_turns(frame) -> int:
    """Counter-clockwise quarter turns that make the frame upright, from the container's display matrix."""
    return round(frame.rotation / 90) % 4


def _upright(frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    image_rgb = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(image_rgb, _quarter_turns(frame)))


def _refuse_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MediaError(f"{width} x {height} pixels, more than data.max_pixels ({max_pixels})")
