"""The errors that users are meant to see."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. Its message is one line: what, where, and what to do.

    The command line prints the message and exits with code 2; the traceback is shown only with ``--debug``.
    """


class InterruptedCommandError(Exception):
    """Ctrl-C or a polite kill, and all is saved. The command line prints its message and exits with code 130."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Words like ``; did you mean 'a' or 'b'?``, or nothing when no known name is near."""
    matches = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"
