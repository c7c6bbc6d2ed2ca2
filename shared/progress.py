"""Progress on stderr, with rate and ETA."""

import os
import sys

from tqdm import tqdm


def progress_bar(*, total: int, title: str, unit: str, done: int = 0) -> tqdm:
    """A bar on a terminal, a line every half minute in a log file; VID2SHOP_QUIET=1 turns it off. Close it or use `with`."""
    to_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=to_terminal,
        mininterval=0.3 if to_terminal else 30,
        ascii=not to_terminal,
        disable=bool(os.environ.get("VID2SHOP_QUIET")),
    )
