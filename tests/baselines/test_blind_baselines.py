import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halspan.core.captions import Caption, Sentence
from halspan.core.errors import ConfigError, DataError
from halspan.data.corpus import Corpus
from halspan.data.readers.alignbench import AlignBench
from halspan.data.readers.chocolate import Chocolate
from halspan.evaluation.baselines.text_only import (
    FITS,
    TITLES,
    fit_bag_of_words,
    fit_position,
    fit_prior,
    out_of_fold,
    predict,
)
from halspan.metrics.bootstrap import intervals
from halspan.metrics.summary import summarize

DATA = Path(__file__).parents[3] / "shared" / "data"


def caption(name, *labeled, generator="g"):
    text = " ".join(words for words, _ in labeled)
    sentences, start = [], 0
    for words, label in labeled:
        sentences.append(Sentence(start, start + len(words), label))
        start += len(words) + 1
    return Caption(name, "a.png", generator, "image_to_text", text, tuple(sentences))


TRAIN = [
    caption("a", ("A dog.", "correct"), ("A cat.", "incorrect")),
    caption("b", ("A dog.", "correct"), ("A cat.", "incorrect"), ("A cow.", "unknown")),
    caption("c", ("A cat.", "incorrect"), ("A dog.", "correct")),
]
fits = pytest.mark.parametrize("name", FITS)


def test_a_generator_scores_its_smoothed_share_of_incorrect_training_sentences():
    other = [caption("d", ("X.", "incorrect"), ("Y.", "unknown"), generator="h")]
    # g: 3 of 6 incorrect, (3 + 1) / (6 + 2); h: 1 of 1, (1 + 1) / (1 + 2); unknown ones do not count
    score = fit_prior(TRAIN + other)
    assert score(caption("e", ("X.", None), ("Y.", None))) == pytest.approx([1 / 2, 1 / 2])
    assert score(caption("e", ("X.", None), generator="h")) == pytest.approx([2 / 3])


def test_a_generator_that_is_not_in_training_scores_the_share_of_all():
    other = [caption("d", ("X.", "incorrect"), generator="h")]
    # 4 of 7 incorrect, (4 + 1) / (7 + 2)
    assert fit_prior(TRAIN + other)(caption("e", ("X.", None), generator="new")) == pytest.approx([5 / 9])


def test_a_position_scores_its_smoothed_share_of_incorrect_training_sentences():
    # position 0: 1 of 3 incorrect, (1 + 1) / (3 + 2); position 1: 2 of 3, (2 + 1) / (3 + 2); unknown ones do not count
    score = fit_position(TRAIN)
    assert score(caption("d", ("X.", None), ("Y.", None))) == pytest.approx([2 / 5, 3 / 5])


def test_a_position_beyond_those_seen_counts_as_the_last():
    score = fit_position(TRAIN)
    assert score(caption("d", ("X.", None), ("Y.", None), ("Z.", None), ("W.", None)))[2:] == pytest.approx(
        [3 / 5, 3 / 5]
    )


def test_a_position_that_training_leaves_out_says_nothing():
    train = [caption("a", ("X.", "unknown"), ("Y.", "correct")), caption("b", ("X.", "unknown"), ("Y.", "incorrect"))]
    assert fit_position(train)(caption("d", ("X.", None), ("Y.", None))) == [1 / 2, 1 / 2]


def test_a_bag_of_words_learns_which_words_are_wrong():
    dog, cat = fit_bag_of_words(TRAIN)(caption("d", ("A dog.", None), ("A cat.", None)))
    assert dog < 0.5 < cat


def test_a_bag_of_words_learns_pairs_of_words():
    train = [
        caption(
            "a", ("red dog", "correct"), ("blue cat", "correct"), ("red cat", "incorrect"), ("blue dog", "incorrect")
        )
    ]
    right, wrong = fit_bag_of_words(train * 5)(caption("d", ("red dog", None), ("red cat", None)))
    assert right < 0.5 < wrong


@fits
def test_every_sentence_gets_a_score_and_nothing_is_marked(name):
    test = [caption("d", ("A cat.", "incorrect"), ("A cow.", "unknown"), ("A fox.", None), generator="new")]
    (prediction,) = predict(FITS[name](TRAIN), test)
    assert prediction.caption is test[0]
    assert all(0 < score.p_incorrect < 1 for score in prediction.sentences)
    assert prediction.spans == ()


@fits
def test_captions_of_one_class_are_an_error(name):
    with pytest.raises(DataError, match="fitted on 2 correct and 0 incorrect sentences: it takes both"):
        FITS[name]([caption("a", ("A dog.", "correct"), ("A cat.", "correct"), ("A cow.", "unknown"))])


def test_sentences_without_words_are_an_error_of_the_bag_of_words():
    with pytest.raises(DataError, match="bag of words: cannot be fitted on 2 sentences: empty vocabulary"):
        fit_bag_of_words([caption("a", ("!", "correct"), ("?", "incorrect"))])


def test_without_scikit_learn_the_bag_of_words_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"bow needs scikit-learn.* halspan\[eval\]"):
        fit_bag_of_words(TRAIN)
    assert fit_position(TRAIN) is not None


def test_every_baseline_has_a_title():
    assert TITLES.keys() == FITS.keys()


def test_each_caption_is_scored_by_a_model_of_other_images_only():
    captions = [replace(TRAIN[number % 3], id=str(number)) for number in range(14)]
    images = [f"image {number % 7}" for number in range(14)]  # two captions of each
    seen = []

    def fit(train):
        ids = {caption.id for caption in train}

        def score(caption):
            seen.append((caption.id, ids))
            return [0.5] * len(caption.sentences)

        return score

    predictions = out_of_fold(captions, images, fit, n_folds=5)
    assert [prediction.caption.id for prediction in predictions] == [caption.id for caption in captions]
    assert sorted(id_ for id_, _ in seen) == sorted(caption.id for caption in captions)
    for id_, ids in seen:
        trained_on = {images[int(other)] for other in ids}
        assert images[int(id_)] not in trained_on
        assert len(trained_on) in (5, 6)  # of 7 images in five folds, one or two are left out
        assert len(ids) == 2 * len(trained_on)


def test_folds_are_a_function_of_the_seed_alone():
    captions = [replace(TRAIN[number % 3], id=str(number)) for number in range(12)]
    images = [str(number) for number in range(12)]

    def fit(train):
        fold = frozenset(images) - {caption.id for caption in train}
        return lambda caption: [int("".join(sorted(fold))) / 1e9] * len(caption.sentences)

    def scores(seed, order=slice(None)):
        found = out_of_fold(captions[order], images[order], fit, n_folds=3, seed=seed)
        return {prediction.caption.id: prediction.sentences for prediction in found}

    assert scores(0) == scores(0) == scores(0, order=slice(None, None, -1))
    assert scores(0) != scores(1)


@pytest.mark.parametrize("n_folds", [1, 4])
def test_more_folds_than_images_and_fewer_than_two_are_an_error(n_folds):
    with pytest.raises(DataError, match=f"{n_folds} folds cannot be made of 3 distinct images"):
        out_of_fold([*TRAIN, TRAIN[0]], ["a", "b", "c", "a"], fit_prior, n_folds=n_folds)


def test_a_fold_without_which_one_class_is_left_is_an_error():
    captions = [caption("a", ("A cat.", "incorrect")), caption("b", ("A dog.", "correct")), TRAIN[0]]
    with pytest.raises(DataError, match="it takes both"):
        out_of_fold(captions[:2], ["a", "b"], fit_prior, n_folds=2)


def real(name: str) -> Corpus:
    if not (DATA / name).is_dir():
        pytest.skip(f"../shared/data/{name} is not here")
    return Chocolate(path=DATA / name).load() if name == "chocolate" else AlignBench(path=DATA / name).load()


@pytest.mark.parametrize(("name", "published"), [("chocolate", 0.710), ("flickr8k_esnlive", 0.789)])
def test_the_bag_of_words_is_as_good_as_the_published_one_on_real_captions(name, published):
    # ../shared/data/README.md: fitted on this part of the data, judged on another part, which is not public
    corpus = real(name)
    images = [corpus.image_hash(caption) for caption in corpus.captions]
    predictions = out_of_fold(corpus.captions, images, FITS["bow"])
    auroc = summarize(predictions)[0]["sentence"]["auroc"]["pooled"]
    low, high = intervals(predictions, images=images, n_resamples=200)[0]["sentence.auroc.pooled"]
    assert low < auroc < high
    assert low - 0.03 < published < high + 0.03
    assert auroc == pytest.approx(published, abs=0.03)


def test_the_generator_alone_is_as_good_as_published_on_real_captions():
    corpus = real("chocolate")
    images = [corpus.image_hash(caption) for caption in corpus.captions]
    figures = summarize(out_of_fold(corpus.captions, images, FITS["prior"]))[0]
    assert figures["sentence"]["auroc"]["pooled"] == pytest.approx(0.688, abs=0.03)
    assert np.isfinite(figures["sentence"]["brier"])
