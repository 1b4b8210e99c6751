"""CLIPScore with any dual encoder: the similarity of a sentence and its image in their common space.

Axes: `item` (an image or a sentence), `dimension` (of the space).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import MODEL_MAPPING, AutoConfig

from halspan.core.captions import Prediction, SentenceScore
from halspan.core.cost import Cost
from halspan.core.errors import HalspanError, ModelError
from halspan.data.rows import Row
from halspan.evaluation.baselines.baseline_specs import DualEncoderSpec
from halspan.models.backbones.loading import is_random
from halspan.models.backbones.processors import auto_processor

logger = logging.getLogger(__name__)


def load_dual_encoder(spec: DualEncoderSpec, *, device: torch.device | str) -> "DualEncoder":
    """Load a dual encoder in float32, on the PIL image backend.

    Raises:
        ModelError: The model is not a dual encoder, it cannot be read, or weights are missing.
    """
    try:
        config = AutoConfig.from_pretrained(spec.model, revision=spec.revision, trust_remote_code=False)
        model_class = _class_of(config, spec)
        model, report = model_class.from_pretrained(
            spec.model,
            revision=spec.revision,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
        )
        processor = auto_processor(spec.model, spec.revision)
    except (HalspanError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # hostile files make transformers raise nearly anything
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"clipscore.model: {spec.model!r} cannot be read: {reason}; give a folder that save_pretrained wrote, or "
            "a hub id with weights in safetensors"
        ) from error
    for kind in ("missing", "mismatched"):
        if keys := sorted(map(str, report[f"{kind}_keys"])):
            raise ModelError(
                f"clipscore.model: {spec.model!r} has {len(keys)} {kind} weights for a {model_class.__name__}, first "
                f"{keys[0]}; give the checkpoint that was saved from this model class"
            )
    _check_processor(processor, config, spec)
    return DualEncoder(model.to(device), processor, spec)


class DualEncoder:
    """Scores a sentence by the cosine of its embedding and the image's (Hessel et al. 2021, arXiv 2104.08718).

    p_incorrect is (1 - cosine) / 2, from 0 to 1. It ranks sentences, but it is not a calibrated probability. A sentence
    that is longer than the model's text window is cut there, as is usual; the number of such sentences is logged.

    Args:
        model: Model with features of texts and of images, like transformers' CLIP and SigLIP.
        processor: Its processor.
        spec: Its name and batch size.

    Attributes:
        title: Name, for tables.
        model_type: Transformers' type of the model.
        random_weights: Whether the model has not been trained.
    """

    def __init__(self, model: Any, processor: Any, spec: DualEncoderSpec) -> None:
        self.title = f"CLIPScore, {Path(spec.model).name}"
        self.model_type = str(model.config.model_type)
        self.random_weights = is_random(model.config)
        self._model = model.eval()
        self._image_processor = processor.image_processor
        self._tokenizer = processor.tokenizer
        positions = model.config.get_text_config().max_position_embeddings
        self._window = min(positions, self._tokenizer.model_max_length)
        self._batch_sentences = spec.batch_sentences

    def score(self, rows: Sequence[Row], *, read_image: Callable[[Path], Image]) -> Iterator[tuple[Prediction, Cost]]:
        """Score captions, in the order of the rows, and report the cost of each; no spans are marked.

        Each image file is encoded once, at its first caption.

        Args:
            rows: Images with their captions.
            read_image: Function that returns the RGB image of a row.

        Raises:
            DataError: An image cannot be read.
            ModelError: An embedding is not finite, or not one vector per image or sentence.
        """
        images: dict[Path, Tensor] = {}
        n_sentences = n_cut = 0
        for row in rows:
            texts = [caption.text[s.start : s.end] for caption in row.captions for s in caption.sentences]
            lengths = [len(ids) for ids in self._tokenize(texts)["input_ids"]]
            n_sentences += len(texts)
            n_cut += sum(length > self._window for length in lengths)
            n_images = int(row.image not in images)
            if n_images:
                images[row.image] = self._embed_image(read_image(row.image))
            p_incorrect = ((1 - self._embed_texts(texts) @ images[row.image]) / 2).clamp(0, 1).tolist()
            sentences = iter(zip(p_incorrect, lengths, strict=True))
            for caption in row.captions:
                own = list(islice(sentences, len(caption.sentences)))
                n_tokens = sum(min(length, self._window) for _, length in own)
                yield Prediction(caption, tuple(SentenceScore(p) for p, _ in own)), Cost(n_images, n_tokens, len(own))
                n_images = 0
        if n_cut:
            text = "%s: %d of %d sentences are longer than the text window of %d tokens and were cut there"
            logger.warning(text, self.title, n_cut, n_sentences, self._window)

    def _embed_image(self, image: Image) -> Float[Tensor, "dimension"]:
        inputs = self._image_processor(images=[image], return_tensors="pt")
        return self._unit(self._model.get_image_features, inputs)[0]

    def _embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "item dimension"]:
        parts = []
        for start in range(0, len(texts), self._batch_sentences):
            part = texts[start : start + self._batch_sentences]
            # SigLIP was trained with this padding and reads it; for CLIP it makes no difference
            inputs = self._tokenize(
                part, padding="max_length", truncation=True, max_length=self._window, return_tensors="pt"
            )
            parts.append(self._unit(self._model.get_text_features, inputs))
        return torch.cat(parts)

    def _tokenize(self, texts: Sequence[str], **settings: Any) -> Any:
        # special tokens in a sentence must stay text: CLIP takes its embedding at the first end-of-text token
        return self._tokenizer(
            list(texts), split_special_tokens=True, return_token_type_ids=False, verbose=False, **settings
        )

    @torch.inference_mode()
    def _unit(self, embed: Callable[..., Any], inputs: Any) -> Float[Tensor, "item dimension"]:
        """Embed texts or images as vectors of length 1."""
        output = embed(**inputs.to(self._model.device))
        features = output if isinstance(output, Tensor) else output.pooler_output
        if features.ndim != 2:
            raise ModelError(
                f"{self.title}: the embeddings of a {type(self._model).__name__} have the shape "
                f"{tuple(features.shape)}, not one vector for each text and image; give a model such as CLIP or SigLIP"
            )
        if not features.isfinite().all():
            raise ModelError(f"{self.title}: an embedding is not finite; its weights are damaged: download them again")
        return F.normalize(features, dim=-1)


def _class_of(config: Any, spec: DualEncoderSpec) -> Any:
    """Return the class of a dual encoder."""
    model_class = MODEL_MAPPING.get(type(config), None)
    if not all(hasattr(model_class, name) for name in ("get_text_features", "get_image_features")):
        raise ModelError(
            f"clipscore.model: {spec.model!r} is a {config.model_type!r}, which does not embed both texts and images; "
            "give a dual encoder such as openai/clip-vit-large-patch14 or google/siglip-base-patch16-224"
        )
    return model_class


def _check_processor(processor: Any, config: Any, spec: DualEncoderSpec) -> None:
    """Require a tokenizer with the model's vocabulary, and an image processor.

    Without a tokenizer's files, transformers makes an empty tokenizer, for which all texts are equal.
    """
    n_known = len(getattr(processor, "tokenizer", ()))
    n_embedded = config.get_text_config().vocab_size
    if 2 * n_known < n_embedded or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"clipscore.model: {spec.model!r} has no image processor, or not the tokenizer of its {n_embedded} "
            f"tokens (the one there has {n_known}); save the model's own processor there"
        )
