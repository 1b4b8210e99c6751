"""The detector: a backbone's states below its vocabulary head, and the heads that judge them.

Axes: `token` (caption tokens of a whole batch), `hidden`, `row` and `position` of the backbone's input.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn

from halspan.core.errors import ModelError
from halspan.core.losses import Logits
from halspan.models.backbone import Backbone, load_backbone
from halspan.models.batch import Batch
from halspan.models.context import attention_mask
from halspan.models.encoding import RowEncoder
from halspan.models.heads import SentenceHead, TokenHead
from halspan.models.lora import add_lora
from halspan.models.spec import LoraSpec, ModelSpec
from halspan.models.weights import sum_weights


def build_detector(spec: ModelSpec, taxonomy: Sequence[str]) -> tuple["SpanDetector", RowEncoder]:
    """Load the backbone and put a new detector on it; adapters and heads draw from torch's random numbers.

    Args:
        spec: backbone, context and adapters.
        taxonomy: the types that the detector tells apart, at least one.

    Raises:
        ModelError: the backbone cannot be loaded, a LoRA target matches nothing, the prompt does not show the image
            exactly once, or the window is longer than the backbone's.
    """
    backbone = load_backbone(spec)
    limit = backbone.model.config.get_text_config().max_position_embeddings
    if spec.max_tokens > limit:
        raise ModelError(f"model.max_tokens: {spec.max_tokens} is more than the {limit} positions of {spec.backbone!r}")
    encoder = RowEncoder(backbone.processor, spec, taxonomy)
    return SpanDetector(backbone, lora=spec.lora, n_types=len(taxonomy)), encoder


class SpanDetector(nn.Module):
    """Judges the tokens and sentences of captions; only adapters and heads are trainable.

    Args:
        backbone: frozen; changed in place where adapters are put into it.
        lora: adapters; None trains the heads alone.
        n_types: types of the taxonomy.

    Attributes:
        stored_weights: what the backbone takes, by component and type.

    Raises:
        ModelError: a LoRA target matches nothing.
    """

    def __init__(self, backbone: Backbone, *, lora: LoraSpec | None, n_types: int) -> None:
        super().__init__()
        model, family = backbone.model, backbone.family
        self._family = family
        self.stored_weights = sum_weights([*backbone.weights.values()])
        self._dtype: torch.dtype = model.dtype
        self._decoded: Tensor | None = None
        decoder = model.get_decoder() if family.decoder is None else model.get_submodule(family.decoder)
        decoder.register_forward_hook(self._keep_states)
        self.backbone = model if lora is None else add_lora(model, family, lora)
        hidden = model.config.get_text_config().hidden_size
        self.token_head = TokenHead(hidden, n_types)
        self.sentence_head = SentenceHead(hidden)

    def forward(self, batch: Batch) -> Logits:
        """Judge all tokens and sentences of a batch, in the order of its captions."""
        decoded = self._decode(batch)
        states = decoded[batch.token_row, batch.token_position].float()
        expectations = decoded[batch.token_row, batch.token_expectation].float()
        ids = batch.inputs["input_ids"][batch.token_row, batch.token_position]
        words = self.backbone.get_output_embeddings().weight[ids].float()
        with torch.autocast(states.device.type, enabled=False):
            token, types = self.token_head(states, expectations, words)
            sentence = self.sentence_head(states, token, batch.sentence_tokens)
        return Logits(token=token, type=types, sentence=sentence)

    def states(self, batch: Batch) -> Float[Tensor, "token hidden"]:
        """Give the backbone's last hidden state, after its final norm, at each caption token."""
        return self._decode(batch)[batch.token_row, batch.token_position]

    def _decode(self, batch: Batch) -> Float[Tensor, "row position hidden"]:
        device = batch.segments.device.type
        is_mixed = torch.is_autocast_enabled(device)
        scores_dtype = torch.get_autocast_dtype(device) if is_mixed else self._dtype
        inputs = {name: self._cast(tensor) for name, tensor in batch.inputs.items()}
        # autocast does what peft's own casting is for; both together cast back and forth (a tenth of the time)
        with disable_input_dtype_casting(self.backbone, active=is_mixed):
            self.backbone(
                **inputs,
                attention_mask=attention_mask(batch.segments, batch.blocks, dtype=scores_dtype),
                use_cache=False,
                logits_to_keep=batch.token_row.new_empty(0),  # no position: no vocabulary logits are computed
            )
        decoded, self._decoded = self._decoded, None
        if decoded is None:
            raise RuntimeError("the backbone did not call its text decoder; its family entry names another module")
        return decoded

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Give all that training changes: adapters and heads, on the CPU."""
        return {name: p.detach().cpu() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over adapters and heads that `trainable_state_dict` gave.

        Raises:
            ModelError: the names or shapes are not those of this detector.
        """
        here = {name: tuple(tensor.shape) for name, tensor in self.trainable_state_dict().items()}
        there = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if differing := sorted(name for name in here | there if here.get(name) != there.get(name)):
            name = differing[0]
            raise ModelError(
                f"trained weights: {len(differing)} differ from this detector's, first {name!r}: "
                f"{there.get(name, 'absent')} instead of {here.get(name, 'nothing')}; build the detector with the "
                "settings it was trained with (model.lora, taxonomy)"
            )
        self.load_state_dict(state, strict=False)

    def trainable_parameters_by_component(self) -> dict[str, tuple[int, int]]:
        """Count the parameters of vision tower, projector, language tower and heads: (trained, all)."""
        counts: dict[str, tuple[int, int]] = {}
        for name, parameter in self.named_parameters():
            part = self._part_of(name)
            trained, total = counts.get(part, (0, 0))
            size = parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)  # 4-bit weights, two a byte
            counts[part] = (trained + size * parameter.requires_grad, total + size)
        return counts

    def _part_of(self, name: str) -> str:
        if not name.startswith("backbone."):
            return name.split(".", 1)[0].replace("_", " ")
        path = name.removeprefix("backbone.").removeprefix("base_model.model.")
        if re.fullmatch(self._family.projector, path):
            return "projector"
        return "vision tower" if re.fullmatch(self._family.vision, path) else "language tower"

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _keep_states(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._decoded = output.last_hidden_state
