"""Statistics of a corpus, per generator and overall: sizes, error rates, positions, types, agreement."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from halspan.core.captions import Caption, Sentence, Votes
from halspan.data.corpus import Corpus

N_POSITIONS = 5  # sentences 1 to 4, and all later ones together


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of some captions; a sentence is judged if its label is correct or incorrect.

    Attributes:
        n_captions: Captions.
        n_images: Image files.
        n_correct: Sentences labeled correct.
        n_incorrect: Sentences labeled incorrect.
        n_unknown: Sentences labeled unknown.
        sentences_per_caption: Judged sentences per caption; None without captions.
        correct_share: Correct among judged sentences, 0 to 1; None without judged sentences.
        words_per_sentence: Words, separated by whitespace, in a judged sentence; None without judged sentences.
        incorrect_by_position: Incorrect among the judged first, second, third, fourth and later sentences, 0 to 1;
            None where there are none.
        types: Incorrect sentences of each type, most frequent first; a sentence of several types counts for each, and
            one without any for those of its spans.
        n_spans: Spans.
        n_without_span: Incorrect sentences that no span touches.
        agreement: Mean over sentences with two votes or more of the share of the most frequent vote; None without any.
        fleiss_kappa: Chance-corrected agreement of these votes; None without any, or with one kind of vote only.
    """

    n_captions: int
    n_images: int
    n_correct: int
    n_incorrect: int
    n_unknown: int
    sentences_per_caption: float | None
    correct_share: float | None
    words_per_sentence: float | None
    incorrect_by_position: tuple[float | None, ...]
    types: dict[str, int]
    n_spans: int
    n_without_span: int
    agreement: float | None
    fleiss_kappa: float | None


def statistics_by_generator(corpus: Corpus) -> dict[str, Statistics]:
    """Describe each generator, in alphabetical order, and the whole corpus as "all"."""
    by_generator: dict[str, list[Caption]] = {name: [] for name in corpus.generators}
    for caption in corpus.captions:
        by_generator[caption.generator].append(caption)
    return {name: statistics(captions) for name, captions in by_generator.items()} | {
        "all": statistics(corpus.captions)
    }


def statistics(captions: Sequence[Caption]) -> Statistics:
    """Describe captions."""
    sentences = [sentence for caption in captions for sentence in caption.sentences]
    labels = Counter(sentence.label for sentence in sentences)
    n_judged = labels["correct"] + labels["incorrect"]
    votes = [sentence.votes for sentence in sentences if sentence.votes is not None]
    return Statistics(
        n_captions=len(captions),
        n_images=len({caption.image for caption in captions}),
        n_correct=labels["correct"],
        n_incorrect=labels["incorrect"],
        n_unknown=labels["unknown"],
        sentences_per_caption=_ratio(n_judged, len(captions)),
        correct_share=_ratio(labels["correct"], n_judged),
        words_per_sentence=_ratio(sum(map(_n_judged_words, captions)), n_judged),
        incorrect_by_position=_incorrect_by_position(captions),
        types=dict(Counter(name for caption in captions for name in _types_of_incorrect(caption)).most_common()),
        n_spans=sum(len(caption.spans) for caption in captions),
        n_without_span=sum(map(_n_without_span, captions)),
        agreement=agreement(votes),
        fleiss_kappa=fleiss_kappa(votes),
    )


def agreement(votes: Iterable[Votes]) -> float | None:
    """Return the mean share of the most frequent vote (AlignBench's agreement_ratio), over two votes or more."""
    shares = [max(counts) / sum(counts) for counts in _counts(votes)]
    return _ratio(sum(shares), len(shares))


def fleiss_kappa(votes: Iterable[Votes]) -> float | None:
    """Return Fleiss' kappa (1971) over correct, incorrect and unknown, for sentences with at least two votes.

    With P_i the share of agreeing pairs of votes of sentence i (AlignBench's fleiss_Pi) and p_j the share of category j
    among all votes: (mean P_i - sum p_j^2) / (1 - sum p_j^2). Sentences may have different numbers of votes.

    Returns:
        Kappa, 1 for perfect agreement and 0 for chance; None without votes, or if all votes are of one category.

    >>> fleiss_kappa([Votes(correct=3, incorrect=0), Votes(correct=0, incorrect=3)])
    1.0
    """
    counts = _counts(votes)
    pairs = [sum(n * (n - 1) for n in row) / (sum(row) * (sum(row) - 1)) for row in counts]
    n_votes = sum(map(sum, counts))
    shares: list[float] = [sum(column) / n_votes for column in zip(*counts, strict=True)]
    by_chance = sum(share * share for share in shares)
    if not counts or by_chance == 1:
        return None
    return (sum(pairs) / len(pairs) - by_chance) / (1 - by_chance)


def _counts(votes: Iterable[Votes]) -> list[tuple[int, int, int]]:
    rows = [(vote.correct, vote.incorrect, vote.unknown) for vote in votes]
    return [row for row in rows if sum(row) >= 2]


def _incorrect_by_position(captions: Iterable[Caption]) -> tuple[float | None, ...]:
    totals, incorrect = [0] * N_POSITIONS, [0] * N_POSITIONS
    for caption in captions:
        for index, sentence in enumerate(caption.sentences):
            position = min(index, N_POSITIONS - 1)
            totals[position] += _is_judged(sentence)
            incorrect[position] += sentence.label == "incorrect"
    return tuple(_ratio(part, whole) for part, whole in zip(incorrect, totals, strict=True))


def _is_judged(sentence: Sentence) -> bool:
    return sentence.label in ("correct", "incorrect")


def _n_judged_words(caption: Caption) -> int:
    return sum(len(caption.text[s.start : s.end].split()) for s in caption.sentences if _is_judged(s))


def _n_without_span(caption: Caption) -> int:
    def touched(sentence: Sentence) -> bool:
        return any(span.start < sentence.end and sentence.start < span.end for span in caption.spans)

    return sum(sentence.label == "incorrect" and not touched(sentence) for sentence in caption.sentences)


def _types_of_incorrect(caption: Caption) -> Iterator[str]:
    """Yield the types of each incorrect sentence, each once; where only its spans have types, theirs."""
    for sentence in caption.sentences:
        if sentence.label == "incorrect":
            of_spans = (span.type for span in caption.spans_in(sentence) if span.type is not None)
            yield from dict.fromkeys(sentence.types or of_spans)


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
