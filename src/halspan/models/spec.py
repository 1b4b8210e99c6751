"""What can be set about a detector's model; checked on construction, nothing heavy imported."""

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", validate_default=True)

Context = Literal["causal", "echo", "bidirectional", "bidirectional_sentence"]
CONTEXTS: tuple[str, ...] = get_args(Context)

EXPERTS = "experts"  # the LoRA target that is no linear layer

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Switch = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSpec:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on linear layers of the backbone.

    Attributes:
        r: rank.
        alpha: the update is scaled by alpha / r (rslora: alpha / sqrt(r)).
        dropout: share of the adapters' inputs that is dropped in training, 0 to 1.
        targets: what gets adapters: names of components (`language`, `vision`, `projector`: their linear layers;
            `experts`: routed experts, which are no linear layers and take rslora without dropout only), or regular
            expressions that match the whole path of a linear layer. What is not named stays frozen.
        rslora: rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).
        dora: directions and magnitudes apart (Liu et al. 2024, arXiv 2402.09353).

    Raises:
        pydantic.ValidationError: a key is unknown, a value has the wrong type or range, or experts are to get adapters
            of a kind that they cannot have.
    """

    r: Annotated[int, Field(ge=1, le=65_536)]  # more than any layer is wide
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[list[Text], Field(min_length=1)]
    rslora: Switch = False
    dora: Switch = False

    def __post_init__(self) -> None:
        if EXPERTS in self.targets and (self.dropout or self.dora or not self.rslora):
            raise ValueError(
                f"targets name '{EXPERTS}', whose adapters are no layers of their own: set dropout to 0, dora to "
                f"false and rslora to true (they are {self.dropout}, {str(self.dora).lower()}, "
                f"{str(self.rslora).lower()}), or take '{EXPERTS}' out of targets"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelSpec:
    """A backbone, how it reads a row, and what of it is adapted.

    Attributes:
        backbone: hub id, local folder, or `builtin:llama4-tiny` (see `halspan.models.tiny`).
        revision: commit, tag or branch of a hub id; None is its main branch.
        prompt: what stands before the captions: the user's turn, worded by the processor's chat template; a prompt
            that contains the family's image placeholder is taken as it is.
        context: what a caption token sees of its own caption. `causal`: what comes before it. `echo`: the caption
            stands there twice, and the second copy is read. `bidirectional`: all of it. `bidirectional_sentence`:
            its own sentence, and what comes before it.
        max_tokens: most tokens of prompt and one caption together; sentences beyond stay unscored.
        pack_tokens: captions of one image share a prompt while the row stays within so many tokens; a longer caption
            has a row of its own. Changes speed and memory, no result.
        dtype: of the frozen weights.
        attention: implementation in transformers.
        quantize: `nf4` keeps the language tower in 4 bits, routed experts included, and computes in `dtype`; None
            keeps all weights in `dtype`.
        image: settings of the image processor that differ from the checkpoint's, such as its size; the names are
            those of the family's image processor in transformers.
        gradient_checkpointing: compute each layer again in the backward pass instead of keeping what it computed: less
            memory, more time, the same gradients.
        lora: adapters; None trains the heads alone.

    Raises:
        pydantic.ValidationError: a key is unknown, or a value has the wrong type or range.
    """

    backbone: Text
    revision: Text | None = None
    prompt: Text
    context: Context
    max_tokens: Count
    pack_tokens: Count
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["eager", "sdpa"]
    quantize: Literal["nf4"] | None = None
    image: dict[str, Any] = Field(default_factory=dict)
    gradient_checkpointing: Switch = False
    lora: LoraSpec | None
