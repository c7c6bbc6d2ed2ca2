"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something that the user can mend: a file, a key, an option.

    The message says where (file, key, id), what (expected, found) and what to do. The entry points print it on stderr
    without a traceback and exit with 1.
    """
