"""JSON files that others wrote: read whole, but never more than a limit, and never from what is no file."""

import codecs
import stat
from pathlib import Path


def read_json_text(path: Path, max_bytes: int, key: str) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises OSError where it cannot be read, ValueError, in words, where it is no file (a pipe would be waited for), has more
    than max_bytes (`key` names the setting), or is not UTF-8.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("expected a file, found a folder, pipe or device")
    if about.st_size > max_bytes:
        raise ValueError(f"{about.st_size} bytes, more than data.{key} ({max_bytes})")
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, found the byte 0x{data[error.start]:02x} at {error.start}") from None
