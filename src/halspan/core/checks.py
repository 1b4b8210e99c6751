"""Checks of the values in records; each raises a DataError that names the field, the value and the remedy."""

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from halspan.core.errors import DataError

_Item = TypeVar("_Item")

_CLOSE = 0.8  # share of common characters, in order, at which one name is probably meant as the other
_LARGEST_LOGIT = 700.0  # beyond it, exp overflows; the probability is 0 or 1 long before
_ROUNDING = 1e-6  # allowed difference of a written probability from that of its logit
_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "nothing",
}


def check_keys(what: str, record: Mapping[str, Any], keys: tuple[str, ...], *, n_required: int) -> None:
    """Require the first `n_required` of `keys`, and refuse keys that are not in `keys`."""
    if unknown := [key for key in record if key not in keys]:
        hint = ask_if_meant(unknown[0], keys)
        raise DataError(f"{unknown[0]}: unknown key; {hint}the keys of {what} are {', '.join(keys)}")
    if missing := [key for key in keys[:n_required] if key not in record]:
        raise DataError(f"{missing[0]}: missing; {what} needs {', '.join(keys[:n_required])}")


def check_object(field: str, value: Any) -> None:
    """Require a JSON object."""
    if not isinstance(value, Mapping):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not an object; write it as {{...}} with its keys")


def check_text(field: str, value: Any) -> None:
    """Require a string that is not empty and that UTF-8 can encode."""
    if not isinstance(value, str):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not text; write it as a string")
    if not value.strip():
        raise DataError(f"{field}: {show(value)} is empty; give some text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{field}: character {error.start} is {value[error.start]!r}, one half of a surrogate pair, which no "
            "tokenizer and no UTF-8 file can hold; repair the text's encoding"
        ) from None


def check_int(field: str, value: Any) -> None:
    """Require a whole number; a float or a boolean is refused."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not a whole number; write it as an integer")


def check_choice(field: str, value: Any, options: tuple[str, ...]) -> None:
    """Require one of the options."""
    if value not in options:
        hint = ask_if_meant(value, options)
        raise DataError(f"{field}: {show(value)} is not possible; {hint}one of {', '.join(options)}")


def check_probability(field: str, value: Any) -> None:
    """Require a number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not a number; give a probability from 0 to 1")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise DataError(f"{field}: {value} is not a probability; give a number from 0 to 1")


def check_logit(field: str, value: Any, *, of: float) -> None:
    """Require that a number is the log-odds of a probability, as far as the digits of the probability tell."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{field}: {show(value)} is {kind(value)}, not a number; give the log-odds, or leave it out")
    p = 1 / (1 + math.exp(-max(min(value, _LARGEST_LOGIT), -_LARGEST_LOGIT)))
    if not (math.isfinite(value) and abs(p - of) < _ROUNDING):
        raise DataError(f"{field}: {value} is not the log-odds of the probability {of}; correct one of them")


def check_range(start: Any, end: Any) -> None:
    """Require that `[start, end)` holds at least one character, counted from 0."""
    check_int("start", start)
    check_int("end", end)
    if start < 0:
        raise DataError(f"start: {start} is before the text; count characters from 0")
    if start > end:
        raise DataError(f"start: {start} is after end {end}; swap the two")
    if start == end:
        raise DataError(f"end: {end} equals start, which leaves no character; ends are exclusive: add 1, or drop it")


def read_list(record: Mapping[str, Any], key: str, read: Callable[[Mapping[str, Any]], _Item]) -> tuple[_Item, ...]:
    """Read each object of a list; an error names the index of the item.

    Raises:
        DataError: The value is not a list, or an item is not an object or cannot be read.
    """
    items = []
    for index, value in enumerate(get_list(record, key)):
        check_object(f"{key}[{index}]", value)
        try:
            items.append(read(value))
        except DataError as error:
            raise DataError(f"{key}[{index}].{error}") from None
    return tuple(items)


def get_list(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    """Return the list at a key; empty where it is null or absent.

    Raises:
        DataError: The value is not a list.
    """
    values = record.get(key)
    if values is None:
        return ()
    if not isinstance(values, list | tuple):
        raise DataError(f"{key}: {show(values)} is {kind(values)}, not a list; put it in [ ]")
    return values


def find_meant(value: Any, options: Iterable[str]) -> str | None:
    """Return the option that a mistyped value was probably meant to be; None if there is none.

    >>> find_meant("Incorrect ", ("correct", "incorrect"))
    'incorrect'
    """
    by_key = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(str(value).strip().casefold(), by_key, n=1, cutoff=_CLOSE)
    return by_key[close[0]] if close else None


def ask_if_meant(value: Any, options: Iterable[str]) -> str:
    """Return "did you mean ...? " with the option that was probably meant; empty if there is none.

    >>> ask_if_meant("Incorect", ("correct", "incorrect"))
    'did you mean incorrect? '
    """
    meant = find_meant(value, options)
    return "" if meant is None else f"did you mean {meant}? "


def suggest(word: str, options: Iterable[str]) -> str:
    """List the possible options, after the option that was probably meant.

    >>> suggest("seeed", ("resume", "seed"))
    'did you mean seed? possible: resume, seed'
    """
    names = sorted(options)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}possible: {', '.join(names)}" if names else "it takes no keys"


def show(value: Any) -> str:
    """Shorten a value for a message."""
    return "null" if value is None else reprlib.repr(value)


def kind(value: Any) -> str:
    """Return the kind of a JSON value, in words.

    >>> kind([1, 2]), kind(None)
    ('a list', 'nothing')
    """
    return _KINDS.get(type(value), type(value).__name__)
