"""What can be set about baselines that are models; checked on construction, nothing heavy imported."""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.models.spec import Count, ModelSpec, Text

_STRICT = ConfigDict(extra="forbid", validate_default=True)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DualEncoderSpec:
    """A model that puts images and texts into one space, such as CLIP or SigLIP.

    Attributes:
        model: hub id or local folder, with weights in safetensors.
        revision: commit, tag or branch of a hub id; None is its main branch.
        batch_sentences: sentences of one forward pass. Changes speed and memory, no result.

    Raises:
        pydantic.ValidationError: a key is unknown, or a value has the wrong type or range.
    """

    model: Text
    revision: Text | None = None
    batch_sentences: Count = 64


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ZeroShotSpec:
    """A vision-language model that is asked about one sentence at a time.

    Attributes:
        model: the model. Its `prompt`, `context`, `pack_tokens`, `gradient_checkpointing` and `lora` are not used; a
            sentence whose prompt, image included, does not stay below `max_tokens` is left unscored.
        question: what is asked; yes has to mean that the sentence is correct. The sentence follows on a line of its
            own. Where the processor has a chat template, it words the turn and puts the image before it; where it has
            none, or the question contains the family's image placeholder, a line "Answer:" ends the prompt.
        batch_prompts: prompts of one forward pass, of one image. Changes speed and memory, no result.

    Raises:
        pydantic.ValidationError: a key is unknown, or a value has the wrong type or range.
    """

    model: ModelSpec
    question: Text = "Is this sentence about the image correct? Answer with yes or no."
    batch_prompts: Count = 8
