"""The process that decodes for `shared.reader`: `python -m shared.decoder CONNECTION MEMORY LIMITS`, started by it alone.

Requests come over a socket as JSON and are answered in their order; frames lie in a memory file that both processes have
open, in a ring of bounded size. Nothing of the caller is imported or shared, so this process may crash, hang or be killed.
"""

import collections
import fcntl
import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from shared.media import MediaError, probe_photo, probe_video, read_frames, read_photo

RING_BYTES = 64 * 2**20  # of pictures that the caller has not taken yet; a larger picture comes alone
PICTURES_AHEAD = 64  # as many small ones: their messages must fit into the socket


def main() -> None:
    connection, memory, lifeline, limits = sys.argv[1:]
    serve(Connection(int(connection)), int(memory), int(lifeline), json.loads(limits))


def serve(
    connection: Connection,
    memory: int,
    lifeline: int,
    limits: dict,
    *,
    photo: Callable = read_photo,
    frames: Callable = read_frames,
) -> None:
    """Answers requests until the caller closes the connection.

    memory: file descriptor of the ring. lifeline: of a pipe whose other end the caller has; it ends with the caller, and this
    process with it. limits: max_pixels, max_frames, memory_mb. photo, frames: what reads a photo and frames.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides when to stop
    die_with(lifeline)
    # What is counted are this process's own writable pages, not libraries, nor the ring.
    resource.setrlimit(resource.RLIMIT_DATA, (limits["memory_mb"] * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ring = _Ring(connection, memory)
    logging.basicConfig(level=logging.INFO, handlers=[_Sender(ring)], force=True)
    ring.send({"ready": True})
    while True:
        try:
            request = ring.next_request()
        except (EOFError, ConnectionError):
            return
        most_pixels, path = limits["max_pixels"], request["path"]
        try:
            match request["verb"]:
                case "photo":
                    ring.put(0, photo(path, most_pixels))
                case "frames":
                    indices = [index for index in request["indices"] if index < limits["max_frames"]]
                    for index, image_rgb in frames(path, indices, most_pixels):
                        ring.put(index, image_rgb)
                case "probe_photo":
                    ring.send({"info": probe_photo(path, most_pixels).__dict__})
                case "probe_video":
                    ring.send({"info": probe_video(path, most_pixels, limits["max_frames"]).__dict__})
            ring.send({"done": True})
        except MediaError as error:
            ring.send({"error": str(error)[:1000], "again": error.again})
        except MemoryError:
            reason = f"its decoding takes more memory than data.decoder_memory_mb ({limits['memory_mb']})"
            ring.send({"error": reason, "again": True})


def die_with(lifeline: int) -> None:
    """Has the system end this process when the pipe's other end closes, whatever the process is doing then.

    A death signal of the parent (PR_SET_PDEATHSIG) would come with the end of the thread that started this process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the caller was gone before
        sys.exit(1)


def place_in_ring(used: collections.deque[tuple[int, int]], n_bytes: int, size: int) -> int | None:
    """Where n_bytes can lie in a ring of `size` bytes: the offset, or None where there is no room.

    used: (offset, bytes) of what lies there, oldest first. Nothing is split at the ring's end. More than `size` goes
    to the beginning of an empty ring, beyond its end.
    """
    if not used:
        return 0
    oldest, end = used[0][0], sum(used[-1])
    if end > oldest:  # free are the end and the beginning
        return end if end + n_bytes <= size else 0 if n_bytes <= oldest else None
    return end if end + n_bytes <= oldest else None


class _Ring:
    """The child's side of the connection and the memory."""

    def __init__(self, connection: Connection, memory: int):
        self._connection = connection
        self._memory = memory
        self._used: collections.deque[tuple[int, int]] = collections.deque()
        self._requests: collections.deque[dict] = collections.deque()

    def send(self, message: dict) -> None:
        self._connection.send_bytes(json.dumps(message).encode())

    def next_request(self) -> dict:
        while not self._requests:
            self._receive()
        return self._requests.popleft()

    def put(self, index: int, image_rgb: np.ndarray) -> None:
        """Lays a picture into the ring, as soon as there is room, and tells the caller where."""
        image_rgb = np.ascontiguousarray(image_rgb)
        while True:
            offset = place_in_ring(self._used, image_rgb.nbytes, RING_BYTES)
            if offset is not None and len(self._used) < PICTURES_AHEAD:
                break
            self._receive()
        data, written = memoryview(image_rgb).cast("B"), 0
        while written < len(data):
            written += os.pwrite(self._memory, data[written:], offset + written)
        self._used.append((offset, image_rgb.nbytes))
        self.send({"picture": index, "shape": image_rgb.shape, "offset": offset})

    def _receive(self) -> None:
        message = json.loads(self._connection.recv_bytes())
        if "taken" in message:
            offset, n_bytes = self._used.popleft()
            if offset + n_bytes > RING_BYTES:
                os.ftruncate(self._memory, RING_BYTES)  # gives the memory of a large picture back
        else:
            self._requests.append(message)


class _Sender(logging.Handler):
    """Sends what is logged to the caller, which has the log."""

    def __init__(self, ring: _Ring):
        super().__init__()
        self._ring = ring

    def emit(self, record: logging.LogRecord) -> None:
        self._ring.send({"log": record.getMessage()[:1000], "level": record.levelno, "name": record.name})


if __name__ == "__main__":
    main()
