"""Text from elsewhere (names, ids, messages), written so that it can be shown anywhere."""

import re

# Controls (C0, DEL, C1, where U+009B alone begins an escape sequence), line and paragraph separators, what turns the
# direction of the text around it (UAX #9), and lone surrogates, which no output can encode.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones too, which some spreadsheets take for them


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text with whatever would steer a terminal, or turn the words around it, written as an escape.

    Args:
        text: any text.
        keep: characters to leave as they are.

    >>> print(printable("gpt\x1b[31m"))
    gpt\x1b[31m
    """
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def inert_cell(text: str) -> str:
    """Return a text as a cell of a CSV file, so that no spreadsheet computes one that starts like a formula.

    The source is OWASP, "CSV Injection".
    """
    begins = text.startswith(("\t", "\r", "\n")) or text.lstrip().startswith(_FORMULA)
    return f"'{printable(text)}" if begins else printable(text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
