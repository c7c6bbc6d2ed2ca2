"""Pictures and videos that are broken, strange or hostile, made by the test that uses them."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from tests.drawing import N_FRAMES, numbered_frame, product_box, scene, write_video

HUGE = 30_000  # px, each side


@dataclass(frozen=True)
class Case:
    """A file `name`, made by `write(path)`. reason: a regular expression of why it is left out; None: it is used.
    step: whose manifest says so. size: upright width and height, where it is used."""

    name: str
    write: Callable[[Path], object]
    reason: str | None = None
    step: str = "media"
    size: tuple[int, int] = (64, 96)


def picture(seed: int = 0) -> Image.Image:
    """64 x 96, as of the catalogue."""
    return Image.fromarray(scene("000000", (10, 8, 48, 60), np.random.default_rng(seed)))


def saved(image: Image.Image | None = None, **options) -> Callable[[Path], object]:
    return lambda path: (image or picture()).save(path, **options)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def renamed(suffix: str, **options) -> Callable[[Path], object]:
    """A picture of another format than its name says."""

    def write(path: Path) -> None:
        picture().save(path.with_suffix(suffix), **options)
        path.with_suffix(suffix).rename(path)

    return write


def cut(share: float, **options) -> Callable[[Path], object]:
    """A picture of which only this share of the bytes is there."""

    def write(path: Path) -> None:
        picture().save(path, **options)
        os.truncate(path, int(path.stat().st_size * share))

    return write


def png(width: int, height: int, rows: bytes = b"", chunks: list[tuple[bytes, bytes]] = ()) -> bytes:
    """A one-bit grey PNG that declares this size; rows: its compressed pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    middle = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def tiff(tags: list[tuple[int, int]], following: int = 0) -> bytes:
    """A TIFF of 32-bit tags; the address of the following page; 16 grey pixels at 300."""
    body = b"II*\0" + struct.pack("<IH", 8, len(tags))
    body += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags)) + struct.pack(
        "<I", following
    )
    return body.ljust(300, b"\0") + bytes(range(16))


SMALL_TIFF = [(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, 300), (277, 1), (278, 4), (279, 16)]


def large_bmp(path: Path) -> None:
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", HUGE, HUGE)
    path.write_bytes(data)


def frame_beyond_screen(path: Path) -> None:
    """A GIF of 4 x 4 whose one frame says 60,000 x 60,000."""
    screen = b"GIF89a" + struct.pack("<HH", 4, 4) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    path.write_bytes(screen + b"," + struct.pack("<HHHH", 0, 0, 60_000, 60_000) + b"\0\x02\x02\x44\x01\0;")


def bloated_text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 50_000_000, zip=True)
    picture().save(path, pnginfo=info)


def wrong_checksum(path: Path) -> None:
    picture().save(path)
    data = bytearray(path.read_bytes())
    data[29] ^= 0xFF  # of the header
    path.write_bytes(data)


def orientation(value: int) -> bytes:
    """EXIF data with this orientation alone."""
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([value]) + b"\0" * 7


def sixteen_bit(path: Path) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(np.asarray(picture()), cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)


def palette_with_transparency(path: Path) -> None:
    picture().quantize(16).save(path, transparency=3)


def not_numbers(path: Path) -> None:
    values = np.float32(np.asarray(picture().convert("L")))
    values[:4], values[4:8] = np.nan, np.inf
    Image.fromarray(values).save(path)


NOT_READABLE = "not a readable picture"
NO_FORMAT = r"not a readable picture \(expected JPEG, PNG"
TOO_LARGE = rf"{HUGE} x {HUGE} pixels, more than data.max_pixels \(50000000\)"
ANIMATION = {"save_all": True, "append_images": [picture(1), picture(2)]}

PHOTOS = {
    "zero bytes": Case("0.jpg", content(b""), NO_FORMAT),
    "text": Case("0.jpg", content(b"<html>404 not found</html>"), NO_FORMAT),
    "start of a JPEG alone": Case("0.jpg", content(b"\xff\xd8\xff\xe0"), NOT_READABLE),
    "truncated JPEG": Case("0.jpg", cut(0.5), NOT_READABLE + ".*truncated", "detections/photos"),
    "truncated PNG": Case("0.png", cut(0.5), NOT_READABLE + ".*truncated"),
    "truncated WebP": Case("0.webp", cut(0.5, lossless=True), NOT_READABLE),
    "wrong checksum": Case("0.png", wrong_checksum, NO_FORMAT),
    "PNG named .jpg": Case("0.jpg", renamed(".png")),
    "JPEG named .png": Case("0.png", renamed(".jpg")),
    "no extension": Case("0", renamed(".png")),
    "video named .jpg": Case("0.jpg", lambda path: small_video(path.with_suffix(".mp4")).rename(path), NO_FORMAT),
    "CMYK": Case("0.jpg", saved(picture().convert("CMYK"))),
    "LAB": Case("0.tif", saved(picture().convert("LAB"))),
    "grey": Case("0.png", saved(picture().convert("L"))),
    "one bit": Case("0.png", saved(picture().convert("1"))),
    "16 bits": Case("0.png", sixteen_bit),
    "numbers that are none": Case("0.tif", not_numbers),
    "palette with transparency": Case("0.png", palette_with_transparency),
    "transparent": Case("0.png", saved(picture().convert("RGBA"))),
    "animated GIF": Case("0.gif", saved(**ANIMATION)),
    "animated PNG": Case("0.png", saved(**ANIMATION)),
    "animated WebP": Case("0.webp", saved(**ANIMATION)),
    "EXIF-rotated": Case("0.jpg", saved(exif=orientation(6)), size=(96, 64)),
    "EXIF orientation 99": Case("0.jpg", saved(exif=orientation(99))),
    "damaged EXIF": Case("0.jpg", saved(exif=b"Exif\0\0MM\0*" + b"\xff" * 40)),
    "bytes after the end": Case("0.png", lambda path: path.write_bytes(png(64, 96, b"\0" * 9 * 96) + b"\0" * 9999)),
    "1 x 1": Case("0.png", saved(Image.new("RGB", (1, 1))), size=(1, 1)),
    "1 x 5000": Case("0.png", saved(Image.new("RGB", (1, 5000))), size=(1, 5000)),
    "0 x 5": Case("0.png", content(png(0, 5)), NO_FORMAT),
    "pages of a TIFF": Case("0.tif", saved(**ANIMATION)),
    "TIFF whose pages go in circles": Case("0.tif", content(tiff(SMALL_TIFF, following=8)), size=(4, 4)),
    "TIFF with a strip of 4 billion rows": Case(
        "0.tif", content(tiff([*SMALL_TIFF[:7], (278, 2**32 - 1), (279, 16)])), size=(4, 4)
    ),
    "huge PNG": Case("0.png", content(png(HUGE, HUGE, b"\0" * 3751 * HUGE)), TOO_LARGE),
    "huge TIFF": Case("0.tif", saved(Image.new("1", (HUGE, HUGE)), compression="group4"), TOO_LARGE),
    "huge BMP": Case("0.bmp", large_bmp, TOO_LARGE),
    "PNG of 2 billion pixels a side": Case("0.png", content(png(2**31 - 1, 2**31 - 1)), "more than data.max_pixels"),
    "GIF whose frame is larger than its screen": Case("0.gif", frame_beyond_screen, "60000 x 60000 pixels, more than"),
    "PNG with text that unpacks to 50 MB": Case("0.png", bloated_text, "Decompressed data too large"),
    "PNG with a profile that unpacks to 50 MB": Case(
        "0.png", content(png(9, 9, chunks=[(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 50_000_000))])), "too large"
    ),
    "EPS": Case("0.eps", saved(), NO_FORMAT),
    "PDF": Case("0.pdf", saved(), NO_FORMAT),
    "SVG": Case("0.svg", content(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"), NO_FORMAT),
    "WMF": Case("0.wmf", content(b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 60), NO_FORMAT),
    "EPS named .jpg": Case("0.jpg", renamed(".eps"), NO_FORMAT),
    "TGA": Case("0.tga", saved(), NO_FORMAT),
    "PCX": Case("0.pcx", saved(), NO_FORMAT),
    "icon": Case("0.ico", saved(), NO_FORMAT),
}


def frames_of(item_id: str = "000000", n_frames: int = N_FRAMES, scale: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(int(item_id))
    return [
        np.kron(scene(item_id, product_box(item_id, k), rng), np.ones((scale, scale, 1), np.uint8))
        for k in range(n_frames)
    ]


def small_video(path: Path) -> Path:
    return write_video(path, frames_of())


def large_video(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8000, 7000, "gray"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((7000, 8000), np.uint8), format="gray")))
        file.mux(stream.encode())


def sound(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        noise.sample_rate = 8000
        file.mux(stream.encode(noise))


def without_frames(path: Path) -> None:
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        file.start_encoding()


def several_streams(path: Path) -> None:
    """Two streams of pictures: of 64 x 96, then of 128 x 192; and one of sound."""
    with av.open(str(path), "w") as file:
        streams = []
        for scale in (1, 2):
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64 * scale, 96 * scale, "yuv420p"
            streams.append(stream)
        audio = file.add_stream("aac", rate=8000, layout="mono")
        for small, large in zip(frames_of(), frames_of(scale=2), strict=True):
            for stream, image in zip(streams, (small, large), strict=True):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in (*streams, audio):
            file.mux(stream.encode())


def changing_size(path: Path) -> None:
    """12 frames of 64 x 96, then 12 of 128 x 192."""
    whole = b""
    for scale in (1, 2):
        part = path.with_name(f"part{scale}.ts")
        whole += write_video(part, frames_of(n_frames=12, scale=scale)).read_bytes()
        part.unlink()
    path.write_bytes(whole)


def broken_off(path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        np.where(rng.random((96, 64, 1)) < 0.3, rng.integers(0, 256, (96, 64, 3)), numbered_frame(k)) for k in range(60)
    ]
    write_video(path, [frame.astype(np.uint8) for frame in frames])
    os.truncate(path, path.stat().st_size * 6 // 10)


def without_index(path: Path) -> None:
    """An MP4 whose index, which stands at its end, is cut off."""
    small_video(path)
    os.truncate(path, path.stat().st_size * 6 // 10)


def outside(path: Path) -> Path:
    """A video that is not in the data set of `path`."""
    return write_video(path.parents[2] / "outside.ts", frames_of())


def playlist(path: Path) -> None:
    """Names videos elsewhere, as a list that FFmpeg would follow."""
    video = outside(path)
    names = (f"../../{video.name}", f"file://{video}", "http://127.0.0.1:9/a.ts")
    lines = "".join(f"#EXTINF:1,\n{name}\n" for name in names)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{lines}#EXT-X-ENDLIST\n")


def endless_playlist(path: Path) -> None:
    """One that may still grow: FFmpeg would wait for more."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../../{outside(path).name}\n")


def concat_list(path: Path) -> None:
    """Names a video beside it, since FFmpeg itself refuses others."""
    path.write_text("ffconcat version 1.0\nfile sound.mp4\n")


NO_VIDEO = "not a readable video"
LIST = r"not a readable video \(a list of other files, or a format that is not let in"
VIDEOS = {
    "zero bytes": Case("v.mp4", content(b""), NO_VIDEO),
    "text": Case("v.mp4", content(b"no video at all"), NO_VIDEO),
    "sound alone": Case("v.wav", sound, "no video stream"),
    "no frames": Case("v.mp4", without_frames, "no frames|not a readable video|no video stream"),
    "index cut off": Case("v.mp4", without_index, NO_VIDEO),
    "breaks off": Case("v.mkv", broken_off),
    "shorter than the first wanted frame": Case(
        "v.mp4", lambda path: write_video(path, frames_of(n_frames=5)), r"first wanted frame \(8\)", "detections/videos"
    ),
    "one frame": Case(
        "v.mp4", lambda path: write_video(path, frames_of(n_frames=1)), r"first wanted frame \(8\)", "detections/videos"
    ),
    "several streams": Case("v.mkv", several_streams),
    "changing size": Case("v.ts", changing_size),
    "frames too large": Case(
        "v.mkv",
        large_video,
        "8000 x 7000 pixels, more than data.max_pixels",
    ),
    "more frames than allowed": Case(
        "v.mp4", lambda path: write_video(path, frames_of(n_frames=201)), r"more frames than data.max_frames \(200\)"
    ),
    "animated GIF": Case("v.gif", saved(save_all=True, append_images=[picture(k) for k in range(1, 20)], duration=40)),
    "photo named .mp4": Case("v.mp4", renamed(".jpg"), r"first wanted frame \(8\)", "detections/videos"),
    "playlist of other files": Case("v.m3u8", playlist, LIST),
    "endless playlist": Case("v.m3u8", endless_playlist, LIST),
    "playlist named .mp4": Case("v.mp4", playlist, NO_VIDEO),
    "list of other files": Case("v.ffconcat", concat_list, LIST),
    "list named .mp4": Case("v.mp4", concat_list, LIST),
    "SVG": Case("v.svg", content(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"), NO_VIDEO),
}
