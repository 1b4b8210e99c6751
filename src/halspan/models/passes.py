"""One forward pass through a backbone: what its text decoder is given and what it gives, kept apart for each thread."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any

from torch import Tensor, nn


class DecoderReachedError(Exception):
    """Ends a pass that was to go no further than to the text decoder."""


@dataclass(slots=True)
class Pass:
    """A forward pass in progress.

    Attributes:
        masks: the attention mask of each kind of layer; empty leaves those that the model makes by itself.
        ends_early: whether it ends where the decoder would begin.
        decoded: the decoder's last hidden state, `row position hidden`; None until it has run.
    """

    masks: Mapping[str, Tensor]
    ends_early: bool = False
    decoded: Tensor | None = None

    @property
    def states(self) -> Tensor:
        """The decoder's last hidden state, `row position hidden`."""
        if self.decoded is None:
            raise RuntimeError("the backbone did not call its text decoder; its family entry names another module")
        return self.decoded


# Several threads may use one model, so a pass is not kept on the model: each thread has its own value of this variable.
_CURRENT: ContextVar[Pass | None] = ContextVar("halspan_pass", default=None)

# peft puts adapters on routed experts for the time of a pass, and torch remembers parametrized weights for the whole
# process; both would reach the passes of other threads.
PARAMETRIZING = RLock()
"""Held while the weights of experts change for a pass."""


def watch(decoder: nn.Module) -> None:
    """Let a text decoder take its masks from the current pass, and leave its states there."""
    decoder.register_forward_pre_hook(_give_masks, with_kwargs=True)
    decoder.register_forward_hook(_keep_states)


@contextmanager
def current_pass(masks: Mapping[str, Tensor], *, ends_early: bool = False) -> Iterator[Pass]:
    """Begin a pass of this thread, for decoders that `watch` was given.

    Args:
        masks: the attention mask of each kind of layer; empty leaves those that the model makes by itself.
        ends_early: end where the decoder would begin, by a `DecoderReachedError`, which goes no further than this.
    """
    this = Pass(masks, ends_early)
    token = _CURRENT.set(this)
    try:
        with suppress(DecoderReachedError):
            yield this
    finally:
        _CURRENT.reset(token)


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let a module run `forward(module, ...)`, which calls `type(module).forward`; a copy of the module runs itself."""
    module.forward = partial(forward, module)


def run_one_at_a_time(module: nn.Module) -> None:
    """Keep all but one thread out of a module whose weights change for the time of a pass."""
    replace_forward(module, _run_alone)


def _run_alone(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    with PARAMETRIZING:
        return type(module).forward(module, *inputs, **named)


def _give_masks(_decoder: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give the decoder a mask for each kind of layer; what is around it would pass on only one."""
    this = _CURRENT.get()
    if this is not None and this.ends_early:
        raise DecoderReachedError
    if this is None or len(this.masks) < 2:
        return inputs, named
    return inputs, named | {"attention_mask": this.masks}


def _keep_states(_decoder: nn.Module, _inputs: Any, output: Any) -> None:
    if (this := _CURRENT.get()) is not None:
        this.decoded = output.last_hidden_state
