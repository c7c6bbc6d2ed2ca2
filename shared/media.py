"""The one reader of pictures and videos: upright, RGB, uint8, H x W x 3; frames counted in display order from 0."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

log = logging.getLogger("media")

av.logging.set_level(None)  # FFmpeg's own notes name no file; what matters is raised as MediaError
Image.MAX_IMAGE_PIXELS = None  # the limit is the config's data.max_pixels, checked before the pixels are decoded


class MediaError(Exception):
    """A picture or video that cannot be read. The message says why; whoever catches it names the file."""


@dataclass(frozen=True)
class MediaInfo:
    """width, height: upright pixels. n_frames: packets of the video stream (1 for a photo), which for a few codecs with
    hidden frames is a little more than the frames shown. fps: 0 where unknown."""

    width: int
    height: int
    n_frames: int
    fps: float


def read_photo(path: str | Path, max_pixels: int) -> np.ndarray:
    """A photo as image_rgb, EXIF orientation applied, transparency laid on white, 16 bits reduced to 8.

    Raises MediaError where it is no picture, is truncated, or has more than max_pixels.
    """
    try:
        with Image.open(path) as picture:
            _refuse_large(picture.width, picture.height, max_pixels)
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I") or picture.mode == "F":
                values = np.asarray(picture, np.float32)
                sixteen_bit = picture.mode.startswith("I;16") or values.max(initial=0) > 255
                grey = values / 257 if sixteen_bit else values  # 65535 / 257 = 255
                picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
            elif picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return np.array(picture.convert("RGB"))
    except MediaError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever the bytes made them stumble over
        raise MediaError(f"not a readable picture ({type(error).__name__}: {error})") from None


def probe_photo(path: str | Path, max_pixels: int) -> MediaInfo:
    """Upright size of a photo from its header alone. Raises MediaError as `read_photo` does, but does not see truncation."""
    try:
        with Image.open(path) as picture:
            _refuse_large(picture.width, picture.height, max_pixels)
            swapped = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the sides
            turned = swapped and picture.format != "TIFF"  # of which Pillow tells the upright size
            width, height = picture.size[::-1] if turned else picture.size
            return MediaInfo(width, height, 1, 0.0)
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"not a readable picture ({type(error).__name__}: {error})") from None


def read_frames(path: str | Path, indices: Iterable[int], max_pixels: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index, image_rgb) of the wanted frames, rising; a shorter video gives those it has.

    Decoding is sequential, so an index is the frame's exact place in display order. A video that breaks off gives the
    frames before the break. Raises MediaError where not one frame can be decoded or a frame has more than max_pixels.
    """
    wanted = set(indices)
    last, index = max(wanted, default=-1), -1
    try:
        with av.open(_local(path)) as container:
            stream = _video_stream(container)
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    _refuse_large(frame.width, frame.height, max_pixels)
                    yield index, _upright(frame)
                if index >= last:
                    return
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        if index < 0:
            raise MediaError(f"not a readable video ({type(error).__name__}: {error})") from None
        log.warning(
            "%s: breaks off after frame %d (%s); the frames before it are used", path, index, type(error).__name__
        )
    if index < 0:
        raise MediaError("the video has no frames")


def probe_video(path: str | Path, max_pixels: int, max_frames: int) -> MediaInfo:
    """Size, frame count and rate of a video, from its packets and its first frame.

    Raises MediaError as `read_frames` does, and where there are more than max_frames.
    """
    try:
        with av.open(_local(path)) as container:
            stream = _video_stream(container)
            first = next(container.decode(stream), None)
            if first is None:
                raise MediaError("the video has no frames")
            _refuse_large(first.width, first.height, max_pixels)
            height, width = first.height, first.width
            if _quarter_turns(first) % 2:
                height, width = width, height
            fps = float(stream.average_rate or stream.guessed_rate or 0)
        with av.open(_local(path)) as container:
            n_frames = _count_packets(container, _video_stream(container), max_frames)
        return MediaInfo(width, height, n_frames, fps)
    except (av.FFmpegError, OSError, UnicodeDecodeError) as error:
        raise MediaError(f"not a readable video ({type(error).__name__}: {error})") from None


def _count_packets(container, stream, max_frames: int) -> int:
    n_packets = 0
    try:
        for packet in container.demux(stream):
            n_packets += packet.size > 0
            if n_packets > max_frames:
                raise MediaError(f"more frames than data.max_frames ({max_frames})")
    except av.FFmpegError:
        pass  # a file that breaks off has the packets before the break
    return n_packets


def _local(path: str | Path) -> str:
    """FFmpeg reads `name:` as a protocol and a leading dash as an option: `file:` in front makes any name a name."""
    return f"file:{path}"


def _video_stream(container):
    if not container.streams.video:
        raise MediaError("the file has no video stream")
    return container.streams.video[0]


def _quarter_turns(frame) -> int:
    """Counter-clockwise quarter turns that make the frame upright, from the container's display matrix."""
    return round(frame.rotation / 90) % 4


def _upright(frame) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame)))


def _refuse_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MediaError(f"{width} x {height} pixels, more than data.max_pixels ({max_pixels})")
