"""The one error that is the user's to mend."""

from collections.abc import Sequence


class BadInput(Exception):
    """Something the user gave cannot be used: one sentence that names the file, column or key, and what to do.

    The command line prints the sentence on stderr and exits with code 2; nothing has been written.
    """


def suggest(name: str, names: Sequence[str]) -> str:
    """An ending for an error about a name that is not there: the nearest one that is."""
    import difflib

    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(list(names)[:20])}"
