"""<work>/log.jsonl: what happens in a work folder, one JSON object per line, for another terminal and for the morning after.

Every line has time, level, logger, message and pid; a line of `note` has `event` and that event's fields besides. Lines are
appended by single writes, so that several processes may write to one file, and a reader skips a line that a full disk cut.
"""

import contextlib
import datetime
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from shared.files import open_own
from shared.parse import parse_json

LOG, OLDER = "log.jsonl", "log.1.jsonl"
MOST_BYTES = 8_000_000  # of log.jsonl; then it becomes log.1.jsonl, in the place of the one before
TAIL_BYTES = 400_000  # that hold what `status` asks for

EVENTS = "events"  # the logger of what is for the file alone
_events = logging.getLogger(EVENTS)
_events.setLevel(logging.INFO)


def note(event: str, message: str, **fields: object) -> None:
    """Adds a line to the log of the work folder that this process holds; where it holds none, to nothing."""
    _events.info("%s", message, extra={"fields": {"event": event, **fields}})


class JsonLines(logging.Handler):
    """Appends log records to a file. A write that fails is no reason to end a run: what else it writes will tell."""

    def __init__(self, path: Path):
        super().__init__()
        self._path, self._owner = path, os.getpid()
        self._torn = False  # the last line lacks its end
        self._fd = self._open()

    def _open(self) -> int:
        return open_own(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "time": datetime.datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        data = ("\n" if self._torn else "") + json.dumps(line, ensure_ascii=False, default=str) + "\n"
        data = data.encode(errors="backslashreplace")
        try:
            if self._owner == os.getpid() and os.fstat(self._fd).st_size > MOST_BYTES:  # no fork of it moves the file
                os.replace(self._path, self._path.with_name(OLDER))
                full, self._fd = self._fd, self._open()
                os.close(full)
            self._torn = os.write(self._fd, data) < len(data)
        except OSError:
            self._torn = True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
        super().close()


@contextlib.contextmanager
def logged_to(folder: Path) -> Iterator[None]:
    """Sends what is logged meanwhile to <folder>/log.jsonl too."""
    handler = JsonLines(folder / LOG)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def read_tail(folder: Path) -> list[dict]:
    """The last lines of <folder>/log.jsonl, oldest first; none where there is no log. A torn line is left out."""
    try:
        with open(folder / LOG, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
    except OSError:
        return []
    lines = []
    for text in data.splitlines():
        with contextlib.suppress(ValueError):
            line = parse_json(text)
            if isinstance(line, dict):
                lines.append(line)
    return lines
