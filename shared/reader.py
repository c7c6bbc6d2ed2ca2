"""Pictures and videos read in another process: what crashes, hangs or bloats there costs one file, not the run.

It decodes ahead while the caller works, as far as its ring has room, and dies with the caller.
"""

import collections
import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from shared.config import Data
from shared.errors import UserError
from shared.media import MediaError, MediaInfo

STARTS_WITHIN_S = 120  # the decoder, on the busiest machine
WAITS_AT_ONCE_S = 1  # for the decoder: all that a pause of this process (SIGSTOP, a suspended machine) can cost a file
REQUESTS_AHEAD = 4  # at the decoder at a time; more of them wait here
REQUEST_BYTES = 2**16  # of them, since its socket has to take them at once; a longer one is sent when the decoder waits for it
TAKEN = json.dumps({"taken": True}).encode()
PROJECT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def open_reader(limits: Data, decoder: str = "shared.decoder") -> Iterator["Reader"]:
    """A reader, whose process ends with the block. decoder: the module that is run as that process."""
    reader = Reader(limits, decoder)
    try:
        yield reader
    finally:
        reader.close()


class Answer(Iterator):
    """What a request gives, one after the other; `MediaError` where it fails. See `Reader`."""

    def __init__(self, reader: "Reader", request: dict):
        self._reader = reader
        self.request = json.dumps(request).encode()
        self.sent = False
        self.open = True
        self.waited_s = 0.0  # for the decoder
        self.passed_over = False

    def __next__(self):
        if self.passed_over:
            raise RuntimeError("answers are read in the order of their requests; this one was passed over")
        found = self._reader._next(self) if self.open else None
        if found is None:
            raise StopIteration
        return found


class Reader:
    """Reads media as `shared.media` does, in another process.

    Requests are decoded in their order, from the moment of the call on, so that asking for several files before reading the
    first one's frames has them decoded ahead. Their answers are read in the same order: the first read of one passes over
    what is left of those before it. Used by one thread at a time.

    Every function raises MediaError as that of shared.media does (a photo and a probe when called, frames when they are
    read), and where the decoder crashes, is waited for longer than data.seconds_per_file in all, or takes more memory
    than data.decoder_memory_mb; the latter three may go better another time (`MediaError.again`). The file after that has a
    new process.
    """

    def __init__(self, limits: Data, decoder: str):
        self._seconds_per_file = limits.seconds_per_file
        self._limits = json.dumps(
            {
                "max_pixels": limits.max_pixels,
                "max_frames": limits.max_frames,
                "memory_mb": limits.decoder_memory_mb,
            }
        )
        self._decoder = decoder
        self._answers: collections.deque[Answer] = collections.deque()  # those not done
        self._process: subprocess.Popen | None = None

    def photo(self, path: str | Path) -> np.ndarray:
        """A photo as image_rgb, as `shared.media.read_photo` gives it."""
        return next(self.ask_photo(path))[1]

    def ask_photo(self, path: str | Path) -> Iterator[tuple[int, np.ndarray]]:
        """The photo to come: one pair (0, image_rgb)."""
        return self._ask({"verb": "photo", "path": path})

    def frames(self, path: str | Path, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(index, image_rgb) of the wanted frames, as `shared.media.read_frames` gives them; none from data.max_frames on."""
        return self._ask({"verb": "frames", "path": path, "indices": sorted({int(index) for index in indices})})

    def probe_photo(self, path: str | Path) -> MediaInfo:
        return next(self._ask({"verb": "probe_photo", "path": path}))

    def probe_video(self, path: str | Path) -> MediaInfo:
        return next(self._ask({"verb": "probe_video", "path": path}))

    def close(self) -> None:
        """Ends the process at once; answers that are still open give nothing more."""
        for answer in self._answers:
            answer.open, answer.passed_over = False, True
        self._answers.clear()
        self._end_process()

    def _ask(self, request: dict) -> Answer:
        request["path"] = os.path.abspath(request["path"])
        answer = Answer(self, request)
        self._answers.append(answer)
        self._hand_over()
        return answer

    def _next(self, wanted: Answer) -> tuple[int, np.ndarray] | MediaInfo | None:
        """What the decoder has next for an open answer; None after the last."""
        while self._answers[0] is not wanted:
            self._answers[0].passed_over = True
            with contextlib.suppress(MediaError):
                self._receive()
        while wanted.open:
            found = self._receive()
            if found is not None:
                return found
        return None

    def _receive(self) -> tuple[int, np.ndarray] | MediaInfo | None:
        """Takes the decoder's next message, which belongs to the oldest answer. Raises MediaError where that one fails."""
        oldest = self._answers[0]
        self._hand_over()
        message = self._message_for(oldest)
        match message:
            case {"picture": index, "shape": shape, "offset": offset}:
                image_rgb = None if oldest.passed_over else self._picture(shape, offset)
                self._send(TAKEN)
                return None if image_rgb is None else (index, image_rgb)
            case {"info": info}:
                return MediaInfo(**info)
            case {"log": text, "level": level, "name": name}:
                logging.getLogger(name).log(level, "%s", text)
            case {"ready": True}:
                self._ready = True
            case {"done": True}:
                self._finish(oldest)
            case {"error": reason, "again": again}:
                self._finish(oldest)
                raise MediaError(reason, again)
        return None

    def _finish(self, answer: Answer) -> None:
        answer.open = False
        self._answers.popleft()
        self._hand_over()

    def _message_for(self, answer: Answer) -> dict:
        waited_s, limit_s = (answer.waited_s, self._seconds_per_file) if self._ready else (0.0, STARTS_WITHIN_S)
        try:
            there = self._connection.poll(0)
            while not there and waited_s < limit_s:
                started, at_most_s = time.monotonic(), min(WAITS_AT_ONCE_S, limit_s - waited_s)
                there = self._connection.poll(at_most_s)
                waited_s += min(time.monotonic() - started, at_most_s)
            if self._ready:
                answer.waited_s = waited_s
            if there:
                return json.loads(self._connection.recv_bytes())
            reason = f"not decoded within data.seconds_per_file ({self._seconds_per_file:g} s)"
        except (EOFError, OSError):
            reason = f"the decoder crashed at it ({_how_it_ended(self._process)})"
        if not self._ready:
            self._end_process()
            raise UserError(f"the process that decodes does not start ({reason}); it may have said why above.")
        self._end_process()
        self._finish(answer)
        raise MediaError(reason, again=True)

    def _picture(self, shape: list[int], offset: int) -> np.ndarray:
        image_rgb = np.empty(shape, np.uint8)
        data, read = memoryview(image_rgb).cast("B"), 0
        while read < len(data):
            read += os.preadv(self._memory, [data[read:]], offset + read)
        return image_rgb

    def _hand_over(self) -> None:
        """Sends the oldest requests to the decoder, which is started for them if need be."""
        n_bytes = 0
        for number, answer in enumerate(itertools.islice(self._answers, REQUESTS_AHEAD)):
            n_bytes += len(answer.request)
            if number and n_bytes > REQUEST_BYTES:
                break
            if not answer.sent:
                if self._process is None:
                    self._start_process()
                answer.sent = True
                self._send(answer.request)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # a process that is gone is noticed when its next message is waited for
            self._connection.send_bytes(message)

    def _start_process(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        self._memory = os.memfd_create("pictures")  # it has no name, so nothing is left of it after both processes
        lifeline, self._life = os.pipe()
        ends = (theirs.fileno(), self._memory, lifeline)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._decoder, *map(str, ends), self._limits],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the caller's stdout is for the answer alone
                pass_fds=ends,
                process_group=0,  # Ctrl-C reaches the caller alone
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                },
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._ready = False

    def _end_process(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._connection.close()
        os.close(self._memory)
        os.close(self._life)
        for answer in self._answers:
            answer.sent = False


def _how_it_ended(process: subprocess.Popen) -> str:
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "it closed its connection"
    if code >= 0:
        return f"exit {code}"
    name = signal.Signals(-code).name
    return f"{name}: killed, perhaps for memory" if name == "SIGKILL" else name
