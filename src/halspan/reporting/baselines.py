"""Image-blind baselines: what the position and the words of a sentence give away without the image."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from halspan.core.captions import Caption, Prediction, Sentence, SentenceScore
from halspan.metrics.summary import summarize

logger = logging.getLogger(__name__)

ScoreCaption = Callable[[Caption], Sequence[float]]


def judge_baselines(train: Sequence[Caption], test: Sequence[Caption]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fit the baselines on the detector's own training captions and judge them on test captions.

    Args:
        train: captions of train generators, with both classes.
        test: captions to judge on.

    Returns:
        For each baseline the AUROC of sentences, over generators and of each; and why a figure is missing.
    """
    fits: dict[str, Callable[[Sequence[Caption]], ScoreCaption]] = {
        "position": fit_position,
        "bag_of_words": fit_bag_of_words,
    }
    figures: dict[str, Any] = {}
    reasons = {}
    for name, fit in fits.items():
        try:
            figures[name] = _judge(fit(train), test)
        except ImportError:
            figures[name] = {"sentence.auroc.macro": None}
            reasons[f"baselines.{name}.sentence.auroc.macro"] = "scikit-learn is not installed (halspan[eval])"
    return figures, reasons


def fit_position(train: Iterable[Caption]) -> ScoreCaption:
    """Score a sentence by the share of incorrect ones among training sentences at its position in the caption.

    Positions beyond those seen in training count as the last of them. Shares are smoothed by one correct and one
    incorrect sentence.
    """
    seen: Counter[int] = Counter()
    incorrect: Counter[int] = Counter()
    for _, position, sentence in _labelled(train):
        seen[position] += 1
        incorrect[position] += sentence.label == "incorrect"
    last = max(seen)
    share = [(incorrect[position] + 1) / (seen[position] + 2) for position in range(last + 1)]
    return lambda caption: [share[min(position, last)] for position in range(len(caption.sentences))]


def fit_bag_of_words(train: Iterable[Caption]) -> ScoreCaption:
    """Score a sentence by a logistic regression on TF-IDF of its words and pairs of words; needs scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labelled = list(_labelled(train))
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(
        [caption.text[sentence.start : sentence.end] for caption, _, sentence in labelled],
        [sentence.label == "incorrect" for _, _, sentence in labelled],
    )

    def score(caption: Caption) -> Sequence[float]:
        texts = [caption.text[sentence.start : sentence.end] for sentence in caption.sentences]
        return [float(p_incorrect) for p_incorrect in model.predict_proba(texts)[:, 1]]

    return score


def _judge(score: ScoreCaption, test: Sequence[Caption]) -> dict[str, Any]:
    predictions = [Prediction(caption, tuple(SentenceScore(p) for p in score(caption))) for caption in test]
    auroc = summarize(predictions)[0]["sentence"]["auroc"]
    return {"sentence.auroc.macro": auroc["macro"], "sentence.auroc.by_generator": auroc["by_generator"]}


def _labelled(captions: Iterable[Caption]) -> Iterator[tuple[Caption, int, Sentence]]:
    """Give each sentence that is known to be correct or incorrect, with its position."""
    for caption in captions:
        for position, sentence in enumerate(caption.sentences):
            if sentence.label in ("correct", "incorrect"):
                yield caption, position, sentence
