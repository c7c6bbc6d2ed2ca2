"""The one exception that is meant for the person at the keyboard, and words for what does not fit."""

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
