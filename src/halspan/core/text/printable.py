"""Untrusted text (names, ids, messages), rewritten so that it is safe to show anywhere."""

import re

# Controls (C0, DEL, C1, where U+009B alone begins an escape sequence), line and paragraph separators, characters that
# change the direction of text (UAX #9), and lone surrogates, which no output can encode.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # also the wide forms, which some spreadsheets treat alike


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with escapes for all characters that steer a terminal or reverse the direction of text.

    Args:
        text: Any text.
        keep: Characters to leave as they are.

    >>> print(printable("gpt\x1b[31m"))
    gpt\x1b[31m
    """
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def inert_cell(text: str) -> str:
    """Return a text for a cell of a CSV file, changed so that no spreadsheet takes it for a formula.

    Source: OWASP, "CSV Injection".
    """
    begins = text.startswith(("\t", "\r", "\n")) or text.lstrip().startswith(_FORMULA)
    return f"'{printable(text)}" if begins else printable(text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
