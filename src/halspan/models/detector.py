"""The detector: a backbone without its vocabulary head, and heads that judge its hidden states.

Axes: `token` (caption tokens of a whole batch), `hidden`, `row` and `position` of the backbone's input.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from halspan.core.captions import Caption, Sentence
from halspan.core.errors import ModelError
from halspan.core.losses import Logits
from halspan.models.backbones.components import component_of, plain_model, plain_path
from halspan.models.backbones.families import BACKBONES, DEFAULT, FAMILIES, Family, find_decoder, find_layers
from halspan.models.backbones.flex import uses_flex
from halspan.models.backbones.loading import Backbone, load_backbone
from halspan.models.checkpointing import checkpoint_layers, outermost, run_frozen_towers_without_grad
from halspan.models.heads.building import build_head, check_shape
from halspan.models.heads.protocol import HeadSpec
from halspan.models.inputs.batch import Batch, EncodedRow, collate
from halspan.models.inputs.context import PROMPT, block_masks, layer_kinds, layer_masks
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.inputs.parts import mark_parts
from halspan.models.kept.features import Draft, Features, put, take
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.models.passes import Pass, current_pass, watch
from halspan.models.sharding.lockstep import Lockstep
from halspan.models.sharding.marks import has_shards, holds_scales

_SAME_STATES = 0.05  # relative difference; rounding to bfloat16 causes some


def build_detector(
    spec: ModelSpec, taxonomy: Sequence[str], *, processor: str | None = None, in_shards: bool = False
) -> tuple["SpanDetector", RowEncoder]:
    """Load the backbone and put a new detector on it; adapters and heads use torch's random numbers.

    Args:
        spec: Backbone, context and adapters.
        taxonomy: Types that the detector distinguishes, at least one.
        processor: Folder of the backbone's processor; None for the backbone's own place.
        in_shards: Whether all processes of torch's group hold the decoder's layers together (see
            `halspan.models.sharding`); they must then call this together, and take each pass together.

    Raises:
        ModelError: The backbone cannot be loaded, a LoRA target matches nothing, the prompt does not show the image
            exactly once, the window is longer than the backbone's, or the family of the backbone is not in the
            table and its states differ from the model's own.
    """
    backbone = load_backbone(spec, processor=processor, in_shards=in_shards)
    limit = backbone.model.config.get_text_config().max_position_embeddings
    if spec.max_tokens > limit:
        raise ModelError(f"model.max_tokens: {spec.max_tokens} is more than the {limit} positions of {spec.backbone!r}")
    encoder = RowEncoder(backbone.processor, spec, taxonomy)
    detector = SpanDetector(
        backbone,
        lora=spec.lora,
        token_head=spec.token_head,
        sentence_head=spec.sentence_head,
        n_types=len(taxonomy),
        gradient_checkpointing=spec.gradient_checkpointing,
    )
    if spec.image:
        _check_image_settings(detector, encoder, spec)
    if backbone.family is DEFAULT:
        _check_default_row(detector, encoder, backbone.model.config.model_type)
    if in_shards:
        detector.lockstep = Lockstep(detector, _example(detector, encoder))
    return detector, encoder


def example_row(encoder: RowEncoder) -> EncodedRow:
    """Encode a caption of a nearly square image whose sides are not multiples of a patch, and which fits one tile."""
    image = Image.linear_gradient("L").convert("RGB").resize((151, 149))
    text = "A photo of a street."
    caption = Caption("check", "check", "nobody", "image_to_text", text, (Sentence(0, len(text)),))
    return encoder.encode(image, [caption], targets=False)


def _example(detector: "SpanDetector", encoder: RowEncoder) -> Batch:
    row = example_row(encoder)
    return collate([row], context="causal", pack_tokens=1).to(next(detector.backbone.parameters()).device)


@torch.no_grad()
def _check_image_settings(detector: "SpanDetector", encoder: RowEncoder, spec: ModelSpec) -> None:
    """Pass an image through the vision tower.

    Raises:
        ModelError: The settings of the image processor lead to a shape of images that the tower cannot process.
    """
    detector.eval()  # dropout would draw random numbers
    try:
        detector.embed(_example(detector, encoder))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a setting of the wrong type makes transformers raise nearly anything
        own = {name: getattr(encoder.processor.image_processor, name, None) for name in spec.image}
        raise ModelError(
            f"model.image: the vision tower of {spec.backbone!r} cannot take the images that {spec.image} makes "
            f"({_short(error)}); its own settings are {own}: leave out what does not fit it"
        ) from None
    detector.train()


@torch.no_grad()
def _check_default_row(detector: "SpanDetector", encoder: RowEncoder, model_type: str) -> None:
    """Compare a detector's states with its backbone's own, on one image and caption.

    Raises:
        ModelError: They differ, so the family needs an input that the default row does not have.
    """
    batch = _example(detector, encoder)
    detector.eval()
    try:
        ours, own = detector.states(batch).float(), detector.own_states(batch).float()
    except (RuntimeError, TypeError, ValueError) as error:
        wrong = f"the model cannot read a row: {_short(error)}"
    else:
        difference = float((ours - own).norm() / own.norm())
        wrong = "" if difference < _SAME_STATES else f"states are not the model's own: they differ by {difference:.0%}"
    detector.train()
    if wrong:
        raise ModelError(
            f"model.backbone: {model_type!r} is not in the table of families (halspan/models/backbones/families.py), "
            f"and by its default row {wrong}. It wants other positions, masks or inputs: add a row with `complete` or "
            f"`prompt_blocks` (or register one: entry point group {BACKBONES.group}); families with a row: "
            f"{', '.join(FAMILIES)}"
        )


def _adapt(model: Any, family: Family, lora: LoraSpec) -> Any:
    from halspan.models.lora import add_lora  # imports peft, and with it bitsandbytes

    return add_lora(model, family, lora)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class SpanDetector(nn.Module):
    """A model that judges the tokens and sentences of captions; only adapters and heads are trainable.

    Args:
        backbone: Frozen backbone; adapters change it in place.
        lora: Adapters; None to train the heads alone.
        token_head: Head that judges tokens.
        sentence_head: Head that judges sentences.
        n_types: Number of types in the taxonomy.
        gradient_checkpointing: Whether each layer is recomputed in the backward pass instead of storing activations.

    Attributes:
        family: Family of the backbone.
        on_features: Function that is given the features of each row that is to be kept, when a pass has them.
        lockstep: What keeps passes of processes in step that hold the backbone together; None for one process.

    Raises:
        ModelError: A LoRA target matches nothing, or a head has weights that training does not change.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        lora: LoraSpec | None,
        token_head: HeadSpec,
        sentence_head: HeadSpec,
        n_types: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        model, family = backbone.model, backbone.family
        self.family = family
        self.on_features: Callable[[Sequence[Draft], Sequence[Features]], None] | None = None
        self.lockstep: Lockstep | None = None
        self._dtype: torch.dtype = model.dtype
        self._kinds = layer_kinds(model.config.get_text_config())
        paths = (plain_path(name) for name, _ in model.named_parameters())
        self._expert_modules = {p.rpartition(".")[0] for p in paths if component_of(p, family) == "experts"}
        self._has_block_masks = uses_flex(model.config.get_text_config())
        watch(find_decoder(model, family))
        self.backbone = model if lora is None else _adapt(model, family, lora)
        run_frozen_towers_without_grad(model, family)
        if gradient_checkpointing:
            checkpoint_layers(model)
        hidden = model.config.get_text_config().hidden_size
        self.token_head = build_head("token_head", token_head, hidden, n_types)
        self.sentence_head = build_head("sentence_head", sentence_head, hidden, n_types)
        self._n_types = n_types

    @property
    def vision_tower(self) -> list[nn.Module]:
        """Return the largest modules that are all vision tower."""
        return list(outermost(self.base_model, [self.family.vision]))

    @property
    def decoder(self) -> Any:
        """Return the text decoder."""
        return find_decoder(self.base_model, self.family)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """Return the layers of the text decoder."""
        return find_layers(self.decoder)

    def forward(self, batch: Batch) -> Logits:
        """Judge all tokens and sentences of a batch, in the order of its captions."""
        decoded = self._run(batch).states
        states = decoded[batch.token_row, batch.token_position].float()
        expectations = decoded[batch.token_row, batch.token_expectation].float()
        ids = batch.inputs["input_ids"][batch.token_row, batch.token_position]
        words = self.backbone.get_output_embeddings().weight[ids].float()
        with torch.autocast(states.device.type, enabled=False):
            token, types = self.token_head(states, expectations, words)
            check_shape("token_head", token, (len(states),))
            check_shape("token_head", types, (len(states), self._n_types))
            sentence = self.sentence_head(states, token, batch.sentence_tokens)
            check_shape("sentence_head", sentence, (len(batch.sentence_tokens),))
        return Logits(token=token, type=types, sentence=sentence)

    def states(self, batch: Batch) -> Float[Tensor, "token hidden"]:
        """Return the backbone's last hidden state, after its final norm, at each caption token."""
        return self._run(batch).states[batch.token_row, batch.token_position]

    def embed(self, batch: Batch) -> None:
        """Run the part before the text decoder: the vision tower, whose features replace the image tokens.

        Raises:
            Exception: The backbone's own error, for images of a shape that it cannot process.
        """
        self._run(batch, ends_early=True)

    def decoder_arguments(self, batch: Batch) -> Mapping[str, Any]:
        """Return what the text decoder is called with, by the names of its arguments; it does not run."""
        return self._run(batch, ends_early=True).arguments

    def own_states(self, batch: Batch) -> Float[Tensor, "token hidden"]:
        """Return the states of the model's own forward pass, with its own positions and masks.

        For one causal caption in a row without padding, they equal those of `states`, unless the family's row in the
        table is wrong.
        """
        inputs = {name: self._cast(tensor) for name, tensor in batch.inputs.items() if name != "position_ids"}
        with current_pass({}) as this:
            self.backbone(
                **inputs,
                attention_mask=torch.ones_like(batch.segments),
                use_cache=False,
                logits_to_keep=batch.token_row.new_empty(0),
            )
        return this.states[batch.token_row, batch.token_position]

    def _run(self, batch: Batch, *, ends_early: bool = False) -> Pass:
        inputs = {name: self._cast(tensor) for name, tensor in batch.inputs.items()}
        masks = self._masks(batch, inputs)
        with current_pass(masks, ends_early=ends_early, change=partial(self._exchange_features, batch)) as this:
            self.backbone(
                **self.family.complete(self.base_model, inputs, batch.segments),
                attention_mask=next(iter(masks.values())),  # so that none is built; the decoder gets its own
                use_cache=False,
                logits_to_keep=batch.token_row.new_empty(0),  # no positions, so that no vocabulary logits are computed
            )
        return this

    def merge_adapters(self) -> None:
        """Add the adapters to the weights they adapt, so that a pass costs no more than the backbone's own.

        Scores change by rounding. This is for scoring alone: the adapters stay, but training them has no effect.
        """
        if has_shards(self.backbone):
            return  # a shard has no place for the update of the whole weight
        if any(getattr(module, "merged", None) is False for module in self.backbone.modules()):  # of peft's layers
            self.backbone.merge_adapter()

    def _masks(self, batch: Batch, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor | BlockMask]:
        """Return the mask of each kind of layer."""
        blocks = torch.where(batch.segments == PROMPT, self.family.prompt_blocks(inputs, batch.segments), batch.blocks)
        order = inputs["position_ids"]
        if self._has_block_masks:
            return block_masks(self._kinds, batch.segments, blocks, order)
        device = batch.segments.device.type
        scores_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self._dtype
        masks = layer_masks(self._kinds, batch.segments, blocks, order, dtype=scores_dtype)
        mark_parts(masks.values(), batch.segments)
        return masks

    def _exchange_features(self, batch: Batch, named: dict[str, Any]) -> dict[str, Any]:
        """Put in the features that a batch has instead of pixels, or show those that its pixels have become."""
        if batch.features:
            return put(named, batch.features, batch.segments == PROMPT)
        if batch.drafts and self.on_features is not None:
            self.on_features(batch.drafts, take(named, batch.segments == PROMPT))
        return named

    def tensors_below_decoder(self) -> dict[str, Tensor]:
        """Return all weights and buffers that turn prompt and image into inputs of the text decoder, by path."""
        model = self.base_model
        embeddings = {id(tensor) for tensor in _tensors(model.get_input_embeddings()).values()}
        above = [find_decoder(model, self.family), model.get_output_embeddings()]
        others = {id(tensor) for module in above for tensor in _tensors(module).values()} - embeddings
        return {path: tensor for path, tensor in _tensors(model).items() if id(tensor) not in others}

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the adapters and heads, which are all that training changes, on the CPU."""
        return {name: p.detach().cpu() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the adapters and heads that `trainable_state_dict` returned.

        Raises:
            ModelError: The names or shapes are not those of this detector.
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
        """Return (trained, all) parameters of each component, with its adapters, and of the heads."""
        counts: dict[str, tuple[int, int]] = {}
        for name, parameter in self.named_parameters():
            if holds_scales(name):
                continue
            part = self._part_of(name)
            trained, total = counts.get(part, (0, 0))
            size = parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)  # 4-bit weights, two per byte
            counts[part] = (trained + size * parameter.requires_grad, total + size)
        return counts

    def _part_of(self, name: str) -> str:
        if not name.startswith("backbone."):
            return name.split(".", 1)[0].replace("_", " ")
        path, *adapter = plain_path(name.removeprefix("backbone.")).split(".lora_")
        if not adapter:
            return component_of(path, self.family)
        return "experts" if path in self._expert_modules else component_of(f"{path}.weight", self.family)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    @property
    def base_model(self) -> Any:
        """Return the backbone without PEFT's wrapper."""
        return plain_model(self.backbone)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
