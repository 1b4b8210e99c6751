"""Settings of baselines that are models, checked on construction; nothing heavy is imported."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.models.model_spec import Count, ModelSpec, Text

_STRICT = ConfigDict(extra="forbid", validate_default=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DualEncoderSpec:
    """A model that embeds images and texts in one space, such as CLIP or SigLIP.

    Attributes:
        model: Hub id or local folder, with weights in safetensors.
        revision: Commit, tag or branch of a hub id; None for its main branch.
        batch_sentences: Number of sentences in a forward pass; it changes speed and memory, but no result.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    model: Text
    revision: Text | None = None
    batch_sentences: Count = 64


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ZeroShotSpec:
    """A vision-language model that is asked about one sentence at a time.

    Attributes:
        model: The model. Its `prompt`, `context`, `pack_tokens`, `gradient_checkpointing` and `lora` are not used. A
            sentence is unscored if its prompt, image included, does not fit below `max_tokens`.
        question: The question; "yes" must mean that the sentence is correct. The sentence follows on a line of its own.
            If the processor has a chat template, it formats the turn, with the image first. If it has none, or if the
            question contains the family's image placeholder, a line "Answer:" ends the prompt.
        batch_prompts: Number of prompts in a forward pass, all of one image; it changes speed and memory, but no
            result.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    model: ModelSpec
    question: Text = "Is this sentence about the image correct? Answer with yes or no."
    batch_prompts: Count = 8
