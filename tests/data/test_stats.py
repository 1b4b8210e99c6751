"""Tests of the figures that describe a corpus, by hand on two captions and against the annotators' own columns."""

import json

import pytest

from halspan.core.captions import Caption, Sentence, Span, Votes
from halspan.data.corpus import Corpus
from halspan.data.inspection.statistics import agreement, fleiss_kappa, statistics, statistics_by_generator
from halspan.data.readers.alignbench import AlignBench

FIRST = Caption(
    "a/1",
    "1.png",
    "a",
    "image_to_text",
    "A man. A red hat. A dog. Hm.",
    (
        Sentence(0, 6, "correct"),
        Sentence(7, 17, "incorrect", types=("Attribute", "Object")),
        Sentence(18, 24, "incorrect", types=("Object",)),
        Sentence(25, 28, "unknown"),
    ),
    (Span(9, 12, "Attribute"),),
)
SECOND = Caption("b/1", "1.png", "b", "image_to_text", "A cat. A", (Sentence(0, 6, "correct"), Sentence(7, 8)))


def test_a_corpus_is_described_by_generator_and_as_a_whole(tmp_path):
    corpus = Corpus(name="test", captions=(SECOND, FIRST), image_root=tmp_path)
    by_generator = statistics_by_generator(corpus)
    assert list(by_generator) == ["a", "b", "all"]
    assert by_generator["a"] == statistics([FIRST])
    assert by_generator["all"] == statistics([SECOND, FIRST])


def test_figures_count_judged_sentences_only():
    figures = statistics([FIRST, SECOND])
    assert (figures.n_captions, figures.n_images) == (2, 1)
    assert (figures.n_correct, figures.n_incorrect, figures.n_unknown) == (2, 2, 1)
    assert figures.sentences_per_caption == 2  # 4 judged sentences in 2 captions
    assert figures.correct_share == 0.5
    assert figures.words_per_sentence == (2 + 3 + 2 + 2) / 4
    assert figures.types == {"Object": 2, "Attribute": 1}
    assert (figures.n_spans, figures.n_without_span) == (1, 1)


def test_errors_are_counted_by_position_and_late_sentences_together():
    long = Caption(
        "a/2",
        "2.png",
        "a",
        "image_to_text",
        "ab " * 6,
        tuple(Sentence(3 * i, 3 * i + 2, "incorrect" if i == 5 else "correct") for i in range(6)),
    )
    assert statistics([FIRST, long]).incorrect_by_position == (0, 0.5, 0.5, 0, 0.5)


def test_what_cannot_be_computed_is_none():
    figures = statistics([Caption("a/1", "1.png", "a", "image_to_text", "ab", (Sentence(0, 2),))])
    assert (figures.correct_share, figures.words_per_sentence) == (None, None)
    assert (figures.agreement, figures.fleiss_kappa) == (None, None)
    assert figures.incorrect_by_position == (None,) * 5


def test_agreement_is_the_mean_share_of_the_most_frequent_vote():
    lone = Votes(1, 0)  # one vote agrees with no other
    assert agreement([Votes(3, 0), Votes(1, 2), lone]) == pytest.approx((1 + 2 / 3) / 2)


def test_kappa_of_two_sentences_by_hand():
    # Agreeing pairs of votes: P_1 = 3*2/6 = 1, P_2 = (1*0 + 2*1)/6 = 1/3, mean 2/3.
    # Shares of all votes: 4/6 correct, 2/6 incorrect; sum of squares 20/36 = 5/9. (2/3 - 5/9) / (1 - 5/9) = 1/4.
    assert fleiss_kappa([Votes(3, 0), Votes(1, 2)]) == pytest.approx(0.25)


def test_kappa_is_none_where_every_vote_is_the_same():
    assert fleiss_kappa([Votes(3, 0), Votes(3, 0)]) is None


def test_kappa_is_one_for_perfect_agreement_on_two_classes():
    assert fleiss_kappa([Votes(3, 0), Votes(0, 3)]) == 1


def test_agreement_and_kappa_follow_from_the_columns_that_come_with_the_votes(shared_data):
    folder = shared_data / "flickr8k_crowd"
    rows = [json.loads(line) for line in (folder / "halcap_like.jsonl").read_text().splitlines()]
    figures = statistics(AlignBench(path=folder).load().captions)
    assert figures.agreement == pytest.approx(sum(row["agreement_ratio"] for row in rows) / len(rows))
    votes = [sum(row[name] for row in rows) for name in ("n_correct", "n_incorrect", "n_unknown")]
    by_chance = sum((n / sum(votes)) ** 2 for n in votes)
    mean_pi = sum(row["fleiss_Pi"] for row in rows) / len(rows)
    assert figures.fleiss_kappa == pytest.approx((mean_pi - by_chance) / (1 - by_chance))


def test_where_only_spans_have_types_a_sentence_has_theirs_each_once():
    sentences = (
        Sentence(0, 6, "incorrect"),
        Sentence(7, 17, "incorrect", types=("Object",)),
        Sentence(18, 24, "correct"),
    )
    spans = (Span(0, 2, "Text"), Span(3, 6, "Text"), Span(3, 5), Span(7, 9, "Number"), Span(18, 20, "Relation"))
    caption = Caption("c", "a.png", "g", "image_to_text", "A dog. A red cat. It is.", sentences, spans)
    assert statistics([caption]).types == {"Text": 1, "Object": 1}
