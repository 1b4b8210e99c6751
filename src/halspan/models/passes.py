"""One forward pass of a backbone: the input and output of its text decoder, separate for each thread."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

Change = Callable[[dict[str, Any]], dict[str, Any]]


class DecoderReachedError(Exception):
    """The signal that ends a pass that should stop at the text decoder."""


@dataclass(slots=True)
class Pass:
    """A forward pass in progress.

    Attributes:
        masks: Attention mask of each kind of layer; if empty, the model makes its own.
        ends_early: Whether the pass ends before the decoder.
        change: Function that changes the arguments of the decoder; None to leave them as they are.
        arguments: Arguments of the decoder; empty until it is called, or where the pass does not end there.
        decoded: Last hidden state of the decoder, `row position hidden`; None until it has run.
    """

    masks: Mapping[str, Tensor | BlockMask]
    ends_early: bool = False
    change: Change | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    decoded: Tensor | None = None

    @property
    def states(self) -> Tensor:
        """Return the decoder's last hidden state, `row position hidden`."""
        if self.decoded is None:
            raise RuntimeError("the backbone did not call its text decoder; its family entry names another module")
        return self.decoded


# Several threads may use one model, so a pass is not kept on the model: each thread has its own value of this variable.
_CURRENT: ContextVar[Pass | None] = ContextVar("halspan_pass", default=None)

# peft puts adapters on routed experts during a pass, and torch caches parametrized weights for the whole process. Both
# would affect the passes of other threads.
PARAMETRIZING = RLock()
"""Lock that is held while a pass changes the weights of experts."""


def watch(decoder: nn.Module) -> None:
    """Make a text decoder take its masks from the current pass, and store its states there."""
    # first of all hooks: those of shards must not begin a pass that ends here
    decoder.register_forward_pre_hook(_give_inputs, with_kwargs=True, prepend=True)
    decoder.register_forward_hook(_keep_states)


@contextmanager
def current_pass(
    masks: Mapping[str, Tensor | BlockMask], *, ends_early: bool = False, change: Change | None = None
) -> Iterator[Pass]:
    """Yield a new pass of this thread, for decoders that `watch` was called on.

    Args:
        masks: Attention mask of each kind of layer; if empty, the model makes its own.
        ends_early: Whether to end before the decoder, by a `DecoderReachedError` that is caught here.
        change: Function that changes the arguments of the decoder; None to leave them as they are.
    """
    this = Pass(masks, ends_early, change)
    token = _CURRENT.set(this)
    try:
        with suppress(DecoderReachedError):
            yield this
    finally:
        _CURRENT.reset(token)


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Make a module run `forward(module, ...)`, which calls `type(module).forward`; a copy runs its own."""
    module.forward = partial(forward, module)


def run_one_at_a_time(module: nn.Module) -> None:
    """Admit only one thread at a time to a module whose weights change during a pass."""
    replace_forward(module, _run_alone)


def _run_alone(module: nn.Module, *inputs: Any, **named: Any) -> Any:
    with PARAMETRIZING:
        return type(module).forward(module, *inputs, **named)


def _give_inputs(_decoder: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Pass the decoder a mask for each kind of layer, as the model around it would pass on only one, and features."""
    this = _CURRENT.get()
    if this is None:
        return inputs, named
    if this.change is not None:
        named = this.change(named)
    if len(this.masks) > 1:
        named = named | {"attention_mask": this.masks}
    if this.ends_early:
        this.arguments = named
        raise DecoderReachedError
    return inputs, named


def _keep_states(_decoder: nn.Module, _inputs: Any, output: Any) -> None:
    if (this := _CURRENT.get()) is not None:
        this.decoded = output.last_hidden_state
