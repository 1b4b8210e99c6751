"""Zero-shot prompting of a vision-language model: one prompt per sentence asks whether it is correct.

Axes: `prompt` (of one forward pass), `token` (of a sentence), `yes` and `no` (tokens that the answer may begin with).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from halspan.core.captions import Caption, Prediction, Sentence, SentenceScore
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.data.rows import Row
from halspan.evaluation.baselines.baseline_specs import ZeroShotSpec
from halspan.models.backbones.loading import Backbone, check_backbone, is_random, load_backbone
from halspan.models.inputs.encoding import EncodedRow, RowEncoder

YES = ("yes", "Yes", "YES", " yes", " Yes", " YES")
NO = ("no", "No", "NO", " no", " No", " NO")


def load_zero_shot(spec: ZeroShotSpec, *, device: torch.device | str) -> "ZeroShot":
    """Load the model that is asked.

    Raises:
        ModelError: The model cannot be loaded, or cannot be asked (see `ZeroShot`).
    """
    backbone = load_backbone(spec.model)
    backbone.model.to(device)
    return ZeroShot(backbone, spec)


def check_zero_shot(spec: ZeroShotSpec) -> None:
    """Check that the model can be loaded and asked, without loading its weights.

    Raises:
        ModelError: The model cannot be loaded or asked.
    """
    _, processor = check_backbone(spec.model)
    answer_tokens(processor.tokenizer)
    _word(spec.question, processor)


class ZeroShot:
    """A baseline that asks about each sentence alone: the prompt holds the image and that sentence only.

    This is the protocol of AlignBench (Saito et al. 2025, arXiv 2511.20515): the image is read again for each sentence.
    p_incorrect is P(no) / (P(yes) + P(no)); P(yes) and P(no) are sums of next-token probabilities over the tokens with
    which such an answer may begin.

    Args:
        backbone: The model and its processor; positions and masks are those of its own forward pass.
        spec: Question and batch size.

    Attributes:
        title: Name, for tables.
        model_type: Transformers' type of the model.
        random_weights: Whether the model has not been trained.

    Raises:
        ModelError: The tokenizer cannot distinguish yes from no or has no padding token, or the image processor does
            not have a setting.
    """

    def __init__(self, backbone: Backbone, spec: ZeroShotSpec) -> None:
        config, tokenizer = backbone.model.config, backbone.processor.tokenizer
        self.title = f"zero-shot, {Path(spec.model.backbone).name}"
        self.model_type = str(config.model_type)
        self.random_weights = is_random(config)
        self._model = backbone.model.eval()
        self._yes, self._no = answer_tokens(tokenizer)
        self._slot = tokenizer.pad_token_id
        self._batch_prompts = spec.batch_prompts
        window = min(spec.model.max_tokens, config.get_text_config().max_position_embeddings)
        prompt = _word(spec.question, backbone.processor)
        of_prompts = replace(spec.model, prompt=prompt, context="causal", max_tokens=window)
        self._encoder = RowEncoder(backbone.processor, of_prompts, taxonomy=())

    def score(self, rows: Sequence[Row], *, read_image: Callable[[Path], Image]) -> Iterator[tuple[Prediction, Cost]]:
        """Score captions, in the order of the rows, and report the cost of each; no spans are marked.

        A sentence whose prompt does not fit the window stays unscored, with the reason.

        Args:
            rows: Images with their captions.
            read_image: Function that returns the RGB image of a row.

        Raises:
            DataError: An image cannot be read.
            ModelError: The question alone does not fit the window, or an answer is not finite.
        """
        for row in rows:
            texts = [caption.text[s.start : s.end] for caption in row.captions for s in caption.sentences]
            answers = self._ask(read_image(row.image), texts)
            for caption in row.captions:
                scores, costs = zip(*islice(answers, len(caption.sentences)), strict=True)
                yield Prediction(caption, scores), sum(costs, Cost())

    def _ask(self, image: Image, texts: Sequence[str]) -> Iterator[tuple[SentenceScore, Cost]]:
        """Ask about each text on its own."""
        alone = {place: _alone(text) for place, text in enumerate(texts) if text.strip()}
        row = self._encoder.encode(image, list(alone.values()), targets=False)
        encoded = dict(zip(alone, row.captions, strict=True))
        template = _Template.of(row, self._slot)
        prompts = {place: template.fill(item.ids) for place, item in encoded.items() if item.unscored[0] is None}
        answers = self._p_incorrect(list(prompts.values()), template.image_inputs)
        for place in range(len(texts)):
            if place in prompts:
                yield SentenceScore(next(answers)), Cost(1, len(prompts[place]["input_ids"]), 1)
            else:
                reason = encoded[place].unscored[0] if place in encoded else "there is no text in it"
                yield SentenceScore(None, reason), Cost()

    def _p_incorrect(
        self, prompts: Sequence[Mapping[str, Tensor]], image_inputs: Mapping[str, Tensor]
    ) -> Iterator[float]:
        for start in range(0, len(prompts), self._batch_prompts):
            logits = self._next_token_logits(prompts[start : start + self._batch_prompts], image_inputs)
            log_odds = logits[:, self._no].logsumexp(dim=-1) - logits[:, self._yes].logsumexp(dim=-1)
            if not log_odds.isfinite().all():
                raise ModelError(
                    f"{self.title}: the model's logits of yes and no are not finite, so its answer has no meaning; set "
                    "model.dtype to a type that they fit into"
                )
            yield from log_odds.sigmoid().tolist()

    @torch.inference_mode()
    def _next_token_logits(
        self, prompts: Sequence[Mapping[str, Tensor]], image_inputs: Mapping[str, Tensor]
    ) -> Float[Tensor, "prompt vocabulary"]:
        """Read prompts of one image in one pass, padded at the end, each with the image."""
        device, dtype = self._model.device, self._model.dtype
        lengths = [len(prompt["input_ids"]) for prompt in prompts]
        inputs = {name: pad_sequence([prompt[name] for prompt in prompts], batch_first=True) for name in prompts[0]}
        inputs |= {name: torch.cat([tensor] * len(prompts)) for name, tensor in image_inputs.items()}
        inputs["attention_mask"] = pad_sequence([torch.ones(n, dtype=torch.int64) for n in lengths], batch_first=True)
        inputs = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in inputs.items()}
        ends, end_of = torch.unique(torch.tensor(lengths) - 1, return_inverse=True)
        logits: Tensor = self._model(**inputs, use_cache=False, logits_to_keep=ends.to(device)).logits
        return logits[torch.arange(len(prompts)), end_of].float()


def answer_tokens(tokenizer: Any) -> tuple[Int[Tensor, "yes"], Int[Tensor, "no"]]:
    """Return the tokens with which an answer may begin.

    Args:
        tokenizer: Tokenizer of the model.

    Returns:
        The first tokens of the words in `YES`, and those of the words in `NO`, without tokens that are in both.

    Raises:
        ModelError: No token is left for one of the answers.
    """
    yes, no = (
        {ids[0] for ids in tokenizer(list(ways), add_special_tokens=False)["input_ids"] if ids} for ways in (YES, NO)
    )
    if not (yes - no and no - yes):
        raise ModelError(
            f"zero_shot.model: the tokenizer begins yes with the tokens {sorted(yes)} and no with {sorted(no)}, so the "
            "next token cannot tell them apart; give a model with another tokenizer"
        )
    return torch.tensor(sorted(yes - no)), torch.tensor(sorted(no - yes))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Template:
    """The prompt about one image, with a placeholder token for the sentence.

    Attributes:
        tokens: Inputs of the model with an entry for each token: (position, ...).
        image_inputs: Inputs that belong to the image.
        slot: Position of the sentence.
    """

    tokens: dict[str, Tensor]
    image_inputs: dict[str, Tensor]
    slot: int

    @classmethod
    def of(cls, row: EncodedRow, slot_token: int) -> "_Template":
        places = (row.prompt == slot_token).nonzero().flatten().tolist()
        if len(places) != 1:
            raise ModelError(
                f"zero_shot.question: the padding token, which keeps the place of the sentence, stands {len(places)} "
                "times in the prompt; write a question without it"
            )
        whole = (1, len(row.prompt))  # such as Mllama's mask of what each token sees of the image
        by_token = {name: tensor[0] for name, tensor in row.image_inputs.items() if tensor.shape[:2] == whole}
        return cls(
            tokens={"input_ids": row.prompt, **row.token_inputs, **by_token},
            image_inputs={name: tensor for name, tensor in row.image_inputs.items() if name not in by_token},
            slot=places[0],
        )

    def fill(self, ids: Int[ndarray, "token"]) -> dict[str, Tensor]:
        """Insert a sentence; the other inputs at its position are repeated for each of its tokens."""
        n = len(self.tokens["input_ids"])
        kept = torch.arange(n).repeat_interleave(torch.where(torch.arange(n) == self.slot, len(ids), 1))
        filled = {name: tensor[kept] for name, tensor in self.tokens.items()}
        filled["input_ids"][self.slot : self.slot + len(ids)] = torch.from_numpy(ids)
        return filled


def _word(question: str, processor: Any) -> str:
    """Encode the prompt, with the padding token in the place of the sentence.

    The sentence's own tokens are inserted later, so that text that looks like a special token stays text.

    Raises:
        ModelError: There is no padding token.
    """
    slot, placeholder = processor.tokenizer.pad_token, str(processor.image_token)
    if slot is None:
        raise ModelError(
            "zero_shot.model: the tokenizer has no padding token to keep the place of the sentence; give one"
        )
    if processor.chat_template is not None and placeholder not in question:
        return f"{question}\n{slot}"
    return f"{'' if placeholder in question else placeholder}{question}\n{slot}\nAnswer:"


def _alone(text: str) -> Caption:
    """Return one sentence as a caption of its own."""
    return Caption("one", "one", "one", "image_to_text", text, (Sentence(0, len(text)),))
