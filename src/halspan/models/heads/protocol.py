"""The interface of heads: a spec that is cheap to import, and the module that it builds."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # specs are read with the configuration, before torch is needed
    from torch import nn


class HeadSpec(Protocol):
    """Settings of a head: a frozen pydantic dataclass with `extra="forbid"`, whose fields are the name and settings.

    A package registers its class in the entry point group `halspan.heads`, as `token-NAME` or `sentence-NAME`; NAME is
    what the configuration and exported detectors call it. Settings are plain values, which JSON can hold.
    """

    @property
    def name(self) -> str:
        """Return the name under which the head is registered."""
        ...

    def build(self, hidden: int, n_types: int) -> "nn.Module":
        """Build the head; its initial weights use torch's random numbers.

        A token head is called with three `Float[Tensor, "token hidden"]`: the states of the tokens, the states that
        predict them, and their embeddings in the vocabulary head. It returns the logit of P(hallucinated),
        `Float[Tensor, "token"]`, and the logits of the type given hallucination, `Float[Tensor, "token type"]`.

        A sentence head is called with the states, the token head's logits of P(hallucinated), and the tokens of each
        sentence, `Int[Tensor, "sentence slot"]`, padded with -1. It returns the logit of P(incorrect),
        `Float[Tensor, "sentence"]`.

        Both compute in float32. All of their weights must be parameters that training changes.

        Args:
            hidden: Size of a state.
            n_types: Number of types in the taxonomy.
        """
        ...
