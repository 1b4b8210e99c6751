"""Settings of a detector's model, checked on construction; nothing heavy is imported."""

from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, PlainValidator
from pydantic.dataclasses import dataclass

from halspan.models.heads.protocol import HeadSpec
from halspan.models.heads.registry import SENTENCE_HEADS, TOKEN_HEADS, read_head
from halspan.models.heads.specs import ComparingHead, PoolingHead
from halspan.resources import find_shapes_backbone

_STRICT = ConfigDict(extra="forbid", validate_default=True)

Context = Literal["causal", "echo", "bidirectional", "bidirectional_sentence"]
CONTEXTS: tuple[str, ...] = get_args(Context)

EXPERTS = "experts"  # the only LoRA target that is not a linear layer

Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Switch = Annotated[bool, Field(strict=True)]
SHAPES = "builtin:shapes"
"""The backbone that comes with halspan."""

TokenHead = Annotated[HeadSpec, PlainValidator(partial(read_head, TOKEN_HEADS))]
SentenceHead = Annotated[HeadSpec, PlainValidator(partial(read_head, SENTENCE_HEADS))]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSpec:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on linear layers of the backbone.

    Attributes:
        r: Rank.
        alpha: Scale: the update is multiplied by alpha / r (rslora: alpha / sqrt(r)).
        dropout: Share of the adapters' inputs that is dropped in training, 0 to 1.
        targets: Names of components or regular expressions that match the whole path of a linear layer. The components
            `language`, `vision` and `projector` are their linear layers. `experts` are the routed experts, which are
            not linear layers and support only rslora without dropout. Everything else stays frozen.
        rslora: Whether to use rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732).
        layers: Number of the first layer of the text decoder that is adapted, from 0; None for all. The states below
            it need no graph.
        dora: Whether to adapt directions and magnitudes separately (Liu et al. 2024, arXiv 2402.09353).

    Raises:
        pydantic.ValidationError: A key is unknown, a value has the wrong type or range, or experts do not support the
            kind of adapters.
    """

    r: Annotated[int, Field(ge=1, le=65_536)]  # wider than any layer
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[list[Text], Field(min_length=1)]
    rslora: Switch = False
    dora: Switch = False
    layers: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        if EXPERTS in self.targets and (self.dropout or self.dora or not self.rslora):
            raise ValueError(
                f"targets name '{EXPERTS}', whose adapters are not separate layers: set dropout to 0, dora to "
                f"false and rslora to true (they are {self.dropout}, {str(self.dora).lower()}, "
                f"{str(self.rslora).lower()}), or take '{EXPERTS}' out of targets"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelSpec:
    """A backbone, the way it reads a row, and the parts of it that are adapted.

    Attributes:
        backbone: Hub id, local folder, `builtin:shapes` (pre-trained on the shapes world), or `builtin:llama4-tiny`
            (random; see `halspan.models.backbones.tiny`).
        revision: Commit, tag or branch of a hub id; None for its main branch.
        prompt: Text before the captions: a user's turn, which the processor's chat template formats. A prompt that
            contains the family's image placeholder is used as it is.
        read_layer: Number of layers of the text decoder that are loaded and run; the heads read the states after the
            last of them, through the decoder's final norm. None for all layers.
        context: Part of its own caption that a token sees. `causal`: the tokens before it. `echo`: the caption is
            repeated, and the second copy is read. `bidirectional`: the whole caption. `bidirectional_sentence`: its
            own sentence, and the tokens before that.
        max_tokens: Largest number of tokens of the prompt and one caption together; sentences beyond stay unscored.
        pack_tokens: Largest number of tokens in a row in which captions of one image share a prompt; a longer caption
            has a row of its own. It changes speed and memory, but no result.
        dtype: Type of the frozen weights.
        attention: Implementation of attention: transformers' `eager` or `sdpa`, with a mask of all pairs of tokens; or
            torch's `flex`, which leaves out blocks of pairs that do not see each other, and trains on GPUs only.
        quantize: `nf4` stores the language tower in 4 bits, routed experts included, and computes in `dtype`; None
            stores all weights in `dtype`.
        image: Settings of the image processor that differ from the checkpoint's, such as its size, by the names of the
            family's image processor in transformers.
        gradient_checkpointing: Whether each layer is recomputed in the backward pass instead of storing its
            activations: less memory, more time, the same gradients.
        token_head: Head that judges tokens: a registered name and its settings (see `halspan.models.heads.registry`).
        sentence_head: Head that judges sentences, in the same form.
        lora: Adapters; None to train the heads alone.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    backbone: Text
    revision: Text | None = None
    read_layer: Count | None = None
    prompt: Text
    context: Context
    max_tokens: Count
    pack_tokens: Count
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["eager", "sdpa", "flex"]
    quantize: Literal["nf4"] | None = None
    image: dict[str, Any] = Field(default_factory=dict)
    gradient_checkpointing: Switch = False
    token_head: TokenHead = Field(default_factory=ComparingHead)
    sentence_head: SentenceHead = Field(default_factory=PoolingHead)
    lora: LoraSpec | None

    @property
    def source(self) -> str:
        """Return the folder or hub id from which the backbone is read."""
        return str(find_shapes_backbone()) if self.backbone == SHAPES else self.backbone
