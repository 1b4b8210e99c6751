"""Private names of torch, as they are in 2.11 to 2.13."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override


class MovedModule(nn.Module):
    """Module with tensors that are neither parameters nor buffers, and follow where the module is moved."""

    def move_more(self, move: Callable[[Tensor], Tensor]) -> None:
        """Move these tensors.

        Args:
            move: Function that moves or casts a tensor.
        """
        raise NotImplementedError

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.move_more(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


def sort_parameters(module: nn.Module) -> None:
    """Order the parameters that a module has itself by their names."""
    module._parameters = dict(sorted(module._parameters.items()))


def forget_cached_weights() -> None:
    """Forget the weights that `parametrize.cached` has computed so far."""
    parametrize._cache.clear()


def cached_weights() -> Iterator[tuple[str, Tensor]]:
    """Yield each weight that `parametrize.cached` has computed, with the name it has in its module."""
    for (_, name), weight in parametrize._cache.items():
        if weight is not None:
            yield name, weight


def saves_tensors_in_its_own_way() -> bool:
    """Return whether hooks on saved tensors are in force, as those of gradient checkpointing are."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def limit_variants(most: int) -> AbstractContextManager[None]:
    """Let torch compile a function for at most some number of kinds of inputs inside the block."""
    limited: AbstractContextManager[None] = torch._dynamo.config.patch(recompile_limit=most)
    return limited


def forget_compiled(module: nn.Module) -> None:
    """Let a module run as it is after `module.compile()`; torch has no public way back."""
    module._compiled_call_impl = None


def is_profiled() -> bool:
    """Return whether a profiler of torch is at work."""
    return bool(torch.autograd.profiler._is_profiler_enabled)
