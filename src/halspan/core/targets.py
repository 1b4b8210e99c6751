"""What a detector should say about one caption: targets for its tokens and its sentences.

Axes: `token`, `sentence`, `type`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy import ndarray

from halspan.core.alignment import range_of_token, tag_tokens
from halspan.core.captions import Caption
from halspan.core.errors import DataError

NO_TYPE = -100  # the class index that torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionTargets:
    """Targets for the tokens and sentences of one caption.

    Attributes:
        token: 1 where at least half of the token's ink is hallucinated, else 0.
        token_mask: where `token` is known: the tokens of correct sentences, and of incorrect ones that spans localise.
        token_type: index into the taxonomy, of overlapping spans that of a typed one, then of the one that holds most
            of the token, then of the shortest; NO_TYPE where nothing is hallucinated or no type is known.
        token_sentence: the sentence that a token belongs to, -1 for none.
        sentence: probability that the sentence is incorrect, 0 to 1; 0 where `sentence_mask` is false.
        sentence_mask: where `sentence` is known, and the sentence has tokens.
        weak: incorrect sentences with tokens, none of them hallucinated: nobody said where.
        weak_types: 1 for each type known for a `weak` sentence, else 0.
    """

    token: Float32[ndarray, "token"]
    token_mask: Bool[ndarray, "token"]
    token_type: Int[ndarray, "token"]
    token_sentence: Int[ndarray, "token"]
    sentence: Float32[ndarray, "sentence"]
    sentence_mask: Bool[ndarray, "sentence"]
    weak: Bool[ndarray, "sentence"]
    weak_types: Float32[ndarray, "sentence type"]


def build_targets(caption: Caption, offsets: Int[ndarray, "token 2"], taxonomy: Sequence[str]) -> CaptionTargets:
    """Build the targets of one caption.

    Sentences that are unknown or unlabelled, and tokens outside the sentences, count nowhere. Leave out the tokens of
    a sentence that does not fit the window as a whole: a sentence without tokens counts nowhere either.

    Args:
        caption: the caption with its annotation.
        offsets: its tokens' character ranges in its text.
        taxonomy: the detector's types, in the order of its logits.

    Raises:
        DataError: the caption names a type that is not in the taxonomy.
    """
    token_sentence = range_of_token(offsets, caption.sentences, caption.text)
    hallucinated, known = token_labels(caption, offsets)
    has_tokens = _mark(token_sentence, len(caption.sentences))
    is_incorrect = np.array([sentence.label == "incorrect" for sentence in caption.sentences])
    weak = has_tokens & is_incorrect & ~_mark(token_sentence[known], len(caption.sentences))
    targets = [sentence.target for sentence in caption.sentences]
    return CaptionTargets(
        token=hallucinated.astype(np.float32),
        token_mask=known,
        token_type=np.where(hallucinated, _span_types(caption, offsets, taxonomy), NO_TYPE),
        token_sentence=token_sentence,
        sentence=np.array([target or 0 for target in targets], dtype=np.float32),
        sentence_mask=has_tokens & np.array([target is not None for target in targets]),
        weak=weak,
        weak_types=_sentence_types(caption, taxonomy) * weak[:, None],
    )


def token_labels(
    caption: Caption, offsets: Int[ndarray, "token 2"]
) -> tuple[Bool[ndarray, "token"], Bool[ndarray, "token"]]:
    """Say which tokens are hallucinated, and of which that is known.

    Args:
        caption: the caption with its annotation.
        offsets: its tokens' character ranges in its text.

    Returns:
        Where at least half of a token's ink is hallucinated; and where that is known: in correct sentences, and in
        incorrect ones that spans localise. What is not known is not hallucinated either.
    """
    token_sentence = range_of_token(offsets, caption.sentences, caption.text)
    tagged = tag_tokens(offsets, caption.spans, caption.text)
    is_correct = np.array([sentence.label == "correct" for sentence in caption.sentences])
    is_incorrect = np.array([sentence.label == "incorrect" for sentence in caption.sentences])
    is_localised = is_correct | (is_incorrect & _mark(token_sentence[tagged], len(caption.sentences)))
    known = np.append(is_localised, False)[token_sentence]  # -1 finds the False
    return tagged & known, known


def _mark(sentences: Int[ndarray, "token"], n_sentences: int) -> Bool[ndarray, "sentence"]:
    marked = np.zeros(n_sentences + 1, dtype=np.bool_)
    marked[sentences] = True  # -1 marks the one too many
    return marked[:-1]


def _span_types(caption: Caption, offsets: Int[ndarray, "token 2"], taxonomy: Sequence[str]) -> Int[ndarray, "token"]:
    """Index the type of each token: of the typed spans that touch it, the one with most of it, then the shortest.

    NO_TYPE where none touches it: a span without a type says nothing, and hides no type that another span gives.
    """
    typed = [
        (span, _type_index(f"spans[{index}].type", span.type, caption, taxonomy))
        for index, span in enumerate(caption.spans)
        if span.type is not None
    ]
    typed.sort(key=lambda pair: pair[0].end - pair[0].start)  # of equals, range_of_token finds the first
    type_of_span = np.array([*(type_ for _, type_ in typed), NO_TYPE])  # -1, no span, finds the last one
    return np.take(type_of_span, range_of_token(offsets, [span for span, _ in typed], caption.text))


def _sentence_types(caption: Caption, taxonomy: Sequence[str]) -> Float32[ndarray, "sentence type"]:
    listed = np.zeros((len(caption.sentences), len(taxonomy)), dtype=np.float32)
    for row, sentence in enumerate(caption.sentences):
        for index, name in enumerate(sentence.types):
            listed[row, _type_index(f"sentences[{row}].types[{index}]", name, caption, taxonomy)] = 1
    return listed


def _type_index(field: str, name: str, caption: Caption, taxonomy: Sequence[str]) -> int:
    try:
        return taxonomy.index(name)
    except ValueError:
        raise DataError(
            f"caption {caption.id!r}: {field}: {name!r} is not in the taxonomy; one of {', '.join(taxonomy)}, or put "
            "it there and train again"
        ) from None
