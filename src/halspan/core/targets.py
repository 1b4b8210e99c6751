"""Training targets for the tokens and sentences of one caption.

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

NO_TYPE = -100  # class index that torch's cross-entropy ignores


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionTargets:
    """Targets for the tokens and sentences of one caption.

    Attributes:
        token: 1 where at least half of the token's ink is hallucinated, else 0.
        token_mask: Whether `token` is known: it is in correct sentences, and in incorrect ones with spans.
        token_type: Index into the taxonomy; of overlapping typed spans, the one that holds most of the token counts, of
            equal ones the shortest. NO_TYPE where nothing is hallucinated or no type is known.
        token_sentence: The sentence that a token belongs to, -1 for none.
        sentence: Probability that the sentence is incorrect, 0 to 1; 0 where `sentence_mask` is false.
        sentence_mask: Whether `sentence` is known, and the sentence has tokens.
        weak: Whether a sentence with tokens is incorrect, and no annotation shows where.
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

    Unknown and unlabeled sentences, tokens outside the sentences, and sentences without tokens do not count. A caller
    that cuts a caption to a window must leave out all tokens of a sentence that does not fit as a whole.

    Args:
        caption: The caption with its annotation.
        offsets: Its tokens' character ranges in its text.
        taxonomy: The detector's types, in the order of its logits.

    Raises:
        DataError: The caption names a type that is not in the taxonomy.

    >>> from halspan.core.captions import Sentence, Span
    >>> caption = Caption("1", "a.png", "sd", "text_to_image", "A cat.", (Sentence(0, 6, "incorrect"),), (Span(2, 5),))
    >>> build_targets(caption, np.array([[0, 1], [1, 5], [5, 6]]), ["Object"]).token.tolist()
    [0.0, 1.0, 0.0]
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
    """Return which tokens are hallucinated, and for which tokens that is known.

    Args:
        caption: The caption with its annotation.
        offsets: Its tokens' character ranges in its text.

    Returns:
        Whether at least half of a token's ink is hallucinated; and whether that is known, as it is in correct sentences
        and in incorrect ones with spans. A token of which it is not known counts as not hallucinated.

    >>> from halspan.core.captions import Sentence
    >>> caption = Caption("1", "a.png", "sd", "text_to_image", "Hm. Yes.", (Sentence(0, 3), Sentence(4, 8, "correct")))
    >>> [values.tolist() for values in token_labels(caption, np.array([[0, 3], [3, 8]]))]
    [[False, False], [False, True]]
    """
    token_sentence = range_of_token(offsets, caption.sentences, caption.text)
    tagged = tag_tokens(offsets, caption.spans, caption.text)
    is_correct = np.array([sentence.label == "correct" for sentence in caption.sentences])
    is_incorrect = np.array([sentence.label == "incorrect" for sentence in caption.sentences])
    is_localized = is_correct | (is_incorrect & _mark(token_sentence[tagged], len(caption.sentences)))
    known = np.append(is_localized, False)[token_sentence]  # index -1 selects the appended False
    return tagged & known, known


def _mark(sentences: Int[ndarray, "token"], n_sentences: int) -> Bool[ndarray, "sentence"]:
    marked = np.zeros(n_sentences + 1, dtype=np.bool_)
    marked[sentences] = True  # index -1 marks the extra entry
    return marked[:-1]


def _span_types(caption: Caption, offsets: Int[ndarray, "token 2"], taxonomy: Sequence[str]) -> Int[ndarray, "token"]:
    """Return the type of each token: that of the typed span with most of it, of equal ones the shortest.

    NO_TYPE where no typed span touches it. A span without a type does not hide the type of another span.
    """
    typed = [
        (span, _type_index(f"spans[{index}].type", span.type, caption, taxonomy))
        for index, span in enumerate(caption.spans)
        if span.type is not None
    ]
    typed.sort(key=lambda pair: pair[0].end - pair[0].start)  # of equal ones, range_of_token selects the first
    type_of_span = np.array([*(type_ for _, type_ in typed), NO_TYPE])  # index -1 (no span) selects the last entry
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
