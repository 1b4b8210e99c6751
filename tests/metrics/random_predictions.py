"""Random captions with everything that figures leave out, and what a random detector says about them."""

import numpy as np

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span

N = 12  # characters of a sentence
TYPES = ["Object", "Number", None]


def random_predictions(seed: int, *, n_captions: int = 60, n_images: int = 12) -> list[Prediction]:
    """Make captions of few images by three generators; scores have ties."""
    source = np.random.default_rng(seed)
    return [random_prediction(source, number, int(source.integers(n_images))) for number in range(n_captions)]


def random_prediction(source: np.random.Generator, number: int, image: int) -> Prediction:
    n_sentences = int(source.integers(1, 5))
    length = n_sentences * N
    labels = source.choice(["correct", "incorrect", "unknown"], p=[0.55, 0.35, 0.1], size=n_sentences).tolist()
    scores = source.integers(0, 9, size=n_sentences) / 8
    caption = Caption(
        id=str(number),
        image=f"{image}.png",
        generator=str(source.choice(["a", "b", "c"])),
        direction="image_to_text",
        text="x" * length,
        sentences=tuple(Sentence(at * N, at * N + N - 1, label) for at, label in enumerate(labels)),
        spans=tuple(Span(*random_span(source, length)) for _ in range(source.integers(3))),
    )
    return Prediction(
        caption,
        tuple(
            SentenceScore(None, "too long") if source.random() < 0.1 else SentenceScore(score)
            for score in scores.tolist()
        ),
        tuple(PredictedSpan(*random_span(source, length), 0.5) for _ in range(source.integers(3))),
    )


def random_span(source: np.random.Generator, length: int) -> tuple[int, int, str | None]:
    start = int(source.integers(length))
    return start, int(source.integers(start + 1, min(start + 8, length) + 1)), TYPES[source.integers(3)]
