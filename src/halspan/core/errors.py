"""Errors that a user can act on; each message gives the value seen, why it is wrong, and what to do."""


class HalspanError(Exception):
    """Base of every error that halspan raises on purpose; an entry point prints it without a traceback."""


class DataError(HalspanError):
    """A corpus, a record or an image cannot be used."""


class ConfigError(HalspanError):
    """A configuration key or value is not possible."""


class ModelError(HalspanError):
    """A backbone, an adapter or a detector cannot be built or loaded."""


class ResourceError(HalspanError):
    """The disk or the memory is not sufficient, another process of the job has ended, or a store does not answer."""


def first_lines(error: Exception) -> str:
    """Return the first three lines of an error's message as one line."""
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
