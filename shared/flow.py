"""Overlapping work: each stage of a chain of iterators runs in a thread of its own, with bounded queues between them.

    with Flow() as flow:
        read = flow.ahead(read_units(...))
        found = flow.ahead(detect(read))
        for each in found:
            write(each)

Reading, detecting and writing then go on at once, in the order of the source. An error of any stage is raised where the chain
is consumed, once; leaving the block, however that happens, stops and joins all threads.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from operator import attrgetter
from typing import TypeVar

T = TypeVar("T")

ROOM = 64 * 2**20  # bytes that wait in one queue: some frames of any video, and little beside a network


class _Stopped(BaseException):
    """The flow ends: nobody waits for what this thread does."""


class Flow:
    """The threads of one chain."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # one for all queues: any change may be what a thread waits for
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def ahead(
        self, items: Iterable[T], size: Callable[[T], int] = attrgetter("nbytes"), room: int | None = None
    ) -> Iterator[T]:
        """What `items` gives, made ahead in a thread: those that wait have sizes that sum to at most `room`, or are one.

        size: an item's, in the unit of `room` (bytes; None: ROOM). Raises what `items` raises, after what it gave before.
        """
        room = ROOM if room is None else room
        waiting: deque[tuple[T, int]] = deque()
        filled = 0  # of the room, by those that wait
        ended: list[BaseException | None] = []  # of one entry when the thread is through: what it raised, or None

        def wait_until(holds: Callable[[], object]) -> None:
            self._changed.wait_for(lambda: self._stopped or holds())
            if self._stopped:
                raise _Stopped

        def fits(own: int) -> bool:
            return not waiting or filled + own <= room

        def work() -> None:
            nonlocal filled
            if "torch" in sys.modules:
                # Takes torch's number of threads over into this one: a convolution that is a new thread's first work would use
                # every core, and its last bits would be others than those of the same convolution later.
                sys.modules["torch"].get_num_threads()
            error, source = None, iter(items)
            try:
                for item in source:
                    with self._changed:
                        own = size(item)
                        wait_until(partial(fits, own))
                        waiting.append((item, own))
                        filled += own
                        self._changed.notify_all()
                    del item  # the queue's consumer alone keeps it
            except _Stopped:
                pass
            except BaseException as raised:
                error = raised
            if isinstance(source, Generator):
                source.close()  # a reader's files, now and not when memory is next tidied
            with self._changed:
                ended.append(error)
                self._changed.notify_all()

        def consume() -> Iterator[T]:
            nonlocal filled
            while True:
                with self._changed:
                    wait_until(lambda: waiting or ended)
                    if not waiting:
                        break
                    item, own = waiting.popleft()
                    filled -= own
                    self._changed.notify_all()
                yield item
                del item
            if ended[0] is not None:
                raise ended[0]

        # A daemon: a second Ctrl-C ends the process although a long computation does not look up.
        thread = threading.Thread(target=work, daemon=True, name=f"ahead-{len(self._threads)}")
        self._threads.append(thread)
        thread.start()
        return consume()
