"""Progress on stderr and in the work folder's log, with rate, ETA and the count of what was skipped."""

import os
import sys
import time

from tqdm import tqdm

from shared.journal import note

FIRST_NOTE_S, NOTES_EVERY_S = 2.0, 30.0


class Progress(tqdm):
    """tqdm's bar that also counts what was skipped and notes its state in log.jsonl, every half minute after the first ones.

    It counts and notes with the bar turned off too.
    """

    def __init__(self, *, total: int, title: str, unit: str, done: int, **options):
        self._count = self._first = done
        self._skipped = 0
        self._title, self._total, self._unit = title, total, unit
        self._numbers: dict[str, object] = {}
        self._begun = time.monotonic()
        self._pause, self._next = FIRST_NOTE_S, self._begun + FIRST_NOTE_S
        self._open = True
        super().__init__(total=total, initial=done, desc=title, unit=unit, **options)
        self._note()

    def update(self, n: float = 1) -> bool | None:
        shown = super().update(n)
        self._count += n
        now = time.monotonic()
        if now >= self._next:
            self._pause = min(NOTES_EVERY_S, 2 * self._pause)
            self._next = now + self._pause
            self._note()
        return shown

    def skip(self, n: int = 1) -> None:
        """Counts `n` media as skipped; how far the bar is, `update` alone tells."""
        if n:
            self._skipped += n
            self.set_postfix(**self._numbers)

    def set_postfix(self, ordered_dict=None, refresh: bool = True, **numbers) -> None:
        self._numbers = dict(ordered_dict or {}, **numbers)
        skipped = {"skipped": self._skipped} if self._skipped else {}
        super().set_postfix({**self._numbers, **skipped}, refresh=refresh)

    def close(self) -> None:
        if getattr(self, "_open", False):  # tqdm closes again when the object goes
            self._open = False
            self._note()
        super().close()

    def _note(self) -> None:
        seconds = time.monotonic() - self._begun
        rate = (self._count - self._first) / seconds if seconds and self._count > self._first else None
        left = max(0, self._total - self._count)
        note(
            "progress",
            f"{self._title}: {self._count} of {self._total}",
            title=self._title,
            unit=self._unit,
            done=self._count,
            total=self._total,
            skipped=self._skipped,
            rate=rate and round(rate, 4),
            eta_s=rate and round(left / rate, 1),
            **self._numbers,
        )


def progress_bar(*, total: int, title: str, unit: str, done: int = 0) -> Progress:
    """A bar on a terminal, a line every half minute in a log file; VID2SHOP_QUIET=1 turns it off. Close it or use `with`.

    total: in `unit`s; done: of them, those that stood before, which are in no rate. `update(n)` counts what is done, `skip(n)`
    what of it was skipped.
    """
    to_terminal = sys.stderr.isatty()
    return Progress(
        total=total,
        title=title,
        unit=unit,
        done=done,
        file=sys.stderr,
        dynamic_ncols=to_terminal,
        mininterval=0.3 if to_terminal else 30,
        ascii=not to_terminal,
        disable=bool(os.environ.get("VID2SHOP_QUIET")),
    )
