"""The one exception that is meant for the person at the keyboard, and words for what does not fit."""

import unicodedata

from pydantic import ValidationError


class UserError(Exception):
    """Something that the user can mend: a file, a key, an option.

    The message says where (file, key, id), what (expected, found) and what to do. The entry points print it on stderr
    without a traceback and exit with 1.
    """


def first_fault(error: ValidationError) -> str:
    """Where a value that came from outside first does not fit, what was expected, and what was found."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}, found {problem['input']!r:.60}"


def printable(text: object) -> str:
    """A name as text of one line that any file and terminal takes: line ends, other control characters and bytes that are not
    UTF-8 (as Python reads file names) become escapes, as \\n and \\xff."""
    return "".join(map(_printable_character, str(text)))


def _printable_character(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte that was no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    kind = unicodedata.category(c)
    return c.encode("unicode_escape").decode("ascii") if kind[0] == "C" or kind in ("Zl", "Zp") else c
