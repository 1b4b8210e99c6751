"""Time of intervals for a corpus like AlignBench: `python benchmarks/bootstrap.py` (its part of RESULTS.md).

Captions with random labels, scores and spans, as many of each generator as in the paper (arXiv 2511.20515): six
captioners of 2,000 images and two text-to-image models. Beside `intervals` stands a loop that draws the images of one
resample after another and asks scikit-learn for the AUROC of each generator, and nothing else.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

import numpy as np
from results import machine, write_section

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span
from halspan.core.taxonomy import HALLUCINATION_TYPES

N_RESAMPLES = 1000
N_NAIVE = 5
WORDS = 18  # in a sentence
SENTENCE = "woman " * (WORDS - 1) + "woman."
STEP = len(SENTENCE) + 1
# generator: sentences, captions, share of correct sentences; the last two paint images of their own
GENERATORS = {
    "cogvlm": (7372, 2000, 0.915),
    "gpt4o": (12790, 2000, 0.918),
    "sharegpt": (17610, 2000, 0.734),
    "llama-4": (14800, 2000, 0.852),
    "llava": (15170, 2000, 0.809),
    "qwen": (15790, 2000, 0.888),
    "sd": (2417, 1000, 0.341),
    "gpt4o-imagen": (3524, 1000, 0.797),
}
PAINTERS = ("sd", "gpt4o-imagen")


def main() -> None:
    """Measure both ways."""
    from halspan.metrics.bootstrap import intervals

    predictions = build()
    images = [prediction.caption.image for prediction in predictions]
    start = time.perf_counter()
    found, reasons = intervals(predictions, images=images, n_resamples=N_RESAMPLES)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    naive = naive_seconds(predictions, images) * N_RESAMPLES
    n_sentences = sum(len(prediction.sentences) for prediction in predictions)
    write_section(
        "## Intervals",
        [
            f"`python benchmarks/bootstrap.py` on {machine()}: {n_sentences:,} sentences of {len(GENERATORS)} "
            f"generators on {len(set(images)):,} images, {N_RESAMPLES:,} resamples of the images. Peak memory of "
            f"the process: {peak:,.0f} MiB.",
            "",
            "| way | figures | seconds |",
            "|---|---|---|",
            f"| `intervals` | {len(found) + len(reasons)}, spans included | {seconds:.1f} |",
            f"| scikit-learn, one resample after another | {len(GENERATORS) + 1}, AUROC only | "
            f"{naive:.0f} ({N_NAIVE} resamples, scaled) |",
        ],
    )


def build() -> list[Prediction]:
    """Make the captions and what a fairly good detector says about them."""
    source = np.random.default_rng(0)
    return [
        build_caption(
            source, generator, number, n_sentences // n_captions + (number < n_sentences % n_captions), correct
        )
        for generator, (n_sentences, n_captions, correct) in GENERATORS.items()
        for number in range(n_captions)
    ]


def build_caption(
    source: np.random.Generator, generator: str, number: int, n_sentences: int, share_correct: float
) -> Prediction:
    """Make one caption: a word of each incorrect sentence is annotated, and about every other one is found."""
    incorrect = source.random(n_sentences) > share_correct
    p_incorrect = 1 / (1 + np.exp(-source.normal(np.where(incorrect, 0, -2))))
    starts = STEP * np.arange(n_sentences)
    words = starts + 6 * source.integers(WORDS - 1, size=(2, n_sentences))
    found = np.where(source.random(n_sentences) < 0.5, words[0], words[1])
    types = source.choice(HALLUCINATION_TYPES, size=n_sentences).tolist()
    sentences = [
        Sentence(start, start + STEP - 1, "incorrect" if wrong else "correct")
        for start, wrong in zip(starts.tolist(), incorrect, strict=True)
    ]
    own = generator if generator in PAINTERS else "photo"
    caption = Caption(
        id=f"{generator}/{number}",
        image=f"{own}/{number}.png",
        generator=generator,
        direction="text_to_image" if generator in PAINTERS else "image_to_text",
        text=" ".join([SENTENCE] * n_sentences),
        sentences=tuple(sentences),
        spans=tuple(
            Span(int(words[0, index]), int(words[0, index]) + 5, types[index]) for index in np.flatnonzero(incorrect)
        ),
    )
    spans = tuple(
        PredictedSpan(int(found[index]), int(found[index]) + 5, types[index], 0.9)
        for index in np.flatnonzero(p_incorrect > 0.5)
    )
    return Prediction(caption, tuple(SentenceScore(p) for p in p_incorrect.tolist()), spans)


def naive_seconds(predictions: Sequence[Prediction], images: Sequence[str]) -> float:
    """Return the mean time of one resample whose sentences are put together and sorted again."""
    from sklearn.metrics import roc_auc_score

    from halspan.metrics.judged import judged_sentences

    judged = judged_sentences(predictions)
    names, image = np.unique(images, return_inverse=True)
    sentences = [np.flatnonzero(image[judged.caption] == number) for number in range(len(names))]
    source = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(N_NAIVE):
        drawn = np.concatenate([sentences[number] for number in source.integers(len(names), size=len(names))])
        for generator in GENERATORS:
            own = drawn[judged.generator[drawn] == generator]
            roc_auc_score(judged.incorrect[own], judged.p_incorrect[own])
    return (time.perf_counter() - start) / N_NAIVE


if __name__ == "__main__":
    main()
