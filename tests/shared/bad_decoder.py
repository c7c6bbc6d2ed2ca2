"""The process that decodes, with readers that misbehave at files of certain names: run by tests in its place."""

import ctypes
import json
import logging
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from shared.decoder import serve
from shared.media import MediaError, read_photo


def misbehave(path, indices, max_pixels):
    """(index, image_rgb) of 30 frames of 60 x 80, each all of its number; before frame 3 what the file's name says."""
    for index in sorted(indices):
        if index >= 30:
            return
        if index == 3:
            match Path(path).stem.split("-")[0]:
                case "crash":
                    ctypes.string_at(0)
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "abort":
                    os.abort()
                case "exit":
                    os._exit(3)
                case "hang":
                    time.sleep(1000)
                case "stuck":  # in code that lets no other thread of Python run
                    ctypes.PyDLL(None).sleep(1000)
                case "bloat":
                    hoard = [np.ones(10**7, np.uint8) for _ in range(1000)]
                    raise AssertionError(len(hoard))
                case "bug":
                    raise ZeroDivisionError
                case "bad":
                    raise MediaError("no frame 3")
                case "tells":
                    logging.getLogger("media").warning("%s: mind this", path)
                case "slow":
                    time.sleep(0.5)
        size = (4000, 6000, 3) if path.endswith("-large") else (60, 80, 3)
        yield index, np.full(size, index, np.uint8)


if __name__ == "__main__":
    connection, memory, lifeline, limits = sys.argv[1:]
    serve(
        Connection(int(connection)), int(memory), int(lifeline), json.loads(limits), photo=read_photo, frames=misbehave
    )
