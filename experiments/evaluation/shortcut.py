"""Write the shapes world with labels from which a detector learns the position of a sentence instead of its truth.

Command: python experiments/evaluation/shortcut.py

Of the first two sentences of a caption only the correct ones keep their label, of the others only the incorrect ones;
what loses it is `unknown`, so it neither trains nor judges. In these labels position alone is a perfect detector.
"""

from dataclasses import replace
from pathlib import Path

from halspan.core.captions import Caption, Sentence
from halspan.data.readers.jsonl import write_jsonl
from halspan.data.shapes.world import Shapes

FOLDER = Path("data/shortcut")
N_CORRECT = 2  # sentences at the beginning whose labels say correct


def main() -> None:
    """Write `captions.jsonl`; images stay where they are."""
    corpus = Shapes().load().relocated(FOLDER)
    write_jsonl(FOLDER / "captions.jsonl", (shorten(caption).to_record() for caption in corpus.captions))
    print(f"Written to {FOLDER / 'captions.jsonl'}.")


def shorten(caption: Caption) -> Caption:
    """Forget the labels that contradict the position."""
    sentences = tuple(_keep(position, sentence) for position, sentence in enumerate(caption.sentences))
    return replace(caption, sentences=sentences)


def _keep(position: int, sentence: Sentence) -> Sentence:
    kept = "correct" if position < N_CORRECT else "incorrect"
    return sentence if sentence.label == kept else replace(sentence, label="unknown", types=(), votes=None)


if __name__ == "__main__":
    main()
