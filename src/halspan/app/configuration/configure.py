"""Typed objects from a composed configuration; no module below this one uses hydra."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halspan.app.configuration import specs
from halspan.core.errors import ConfigError, first_lines


def build(config: DictConfig, key: str = "") -> Any:
    """Build the spec objects of a composed configuration and check every key and value; nothing is loaded.

    Args:
        config: A node with a `_target_`.
        key: Place of the node in the whole configuration, for messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not possible; the message names key, value and options.
    """
    require_values(config, key)
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or key}: {first_lines(error)}") from error
    return specs.build(values, key)


def require_values(config: DictConfig, key: str = "") -> None:
    """Require that no key is left at `???`.

    Raises:
        ConfigError: A key has no value.
    """
    for missing in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{_join(key, missing)}: missing; give it: {_join(key, missing)}=...")


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
