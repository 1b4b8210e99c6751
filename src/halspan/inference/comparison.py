"""Comparison of a folder with the detector it was made from: a new process loads it and scores captions."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy import ndarray
from safetensors.numpy import load_file, save_file

from halspan.core.captions import Caption
from halspan.core.errors import HalspanError, ModelError
from halspan.data.rows import Row
from halspan.inference.detector import Detector
from halspan.inference.scores import CaptionScores

ADAPTERS_WITHIN = 1e-5  # same weights and order of operations; the measured difference is 0
MERGED_WITHIN = {"float32": 1e-4, "bfloat16": 0.5}
"""Largest difference of logits.

Measured in float32: 2.9e-6 on tiny models of all families, 7.3e-6 on the shapes detector. Measured in bfloat16: 0.09 on
the families, 0.25 with routed experts (where rounding sends some tokens to another one), and 0.23 on shapes.
"""


def score_each(detector: Detector, captions: Sequence[Caption]) -> list[CaptionScores]:
    """Score captions, each in a row of its own; their image paths must be absolute."""
    return list(detector.logits(Row(Path(caption.image), (caption,)) for caption in captions))


def compare_with_folder(
    folder: Path, captions: Sequence[Caption], live: Sequence[CaptionScores], *, device: torch.device, within: float
) -> float:
    """Load a folder in a new process, and require that it scores as the live detector does.

    Args:
        folder: Folder of the detector.
        captions: Captions to score, with absolute image paths.
        live: Result of `score_each` for them.
        device: Device of the new process.
        within: Largest allowed difference of logits and of type probabilities.

    Returns:
        The largest difference.

    Raises:
        ModelError: The folder cannot be loaded, or scores differ by more.
    """
    with TemporaryDirectory() as temporary:
        request, answer = Path(temporary, "request.json"), Path(temporary, "scores.safetensors")
        order = {
            "folder": str(folder),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "captions": [caption.to_record() for caption in captions],
        }
        request.write_text(json.dumps(order), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "halspan.inference.comparison", str(request), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not answer.is_file():
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelError(f"export: the folder cannot be loaded in a new process: {why.removeprefix('error: ')}")
        fresh = load_file(answer)
    return _compare(dict(_arrays(live)), fresh, within)


def _compare(live: dict[str, ndarray], fresh: dict[str, ndarray], within: float) -> float:
    largest = 0.0
    for name, expected in live.items():
        found = fresh.get(name)
        if found is None or found.shape != expected.shape or (np.isnan(found) != np.isnan(expected)).any():
            raise ModelError(f"export: {name}: the folder scores other tokens or sentences than the live detector")
        difference = float(np.nan_to_num(np.abs(found - expected)).max(initial=0.0))
        largest = max(largest, difference)
        if difference > within:
            raise ModelError(
                f"export: {name}: the folder's differ by {difference:.2e} from the live detector's, more than "
                f"{within:.0e}; nothing was exported"
            )
    return largest


def _arrays(scores: Sequence[CaptionScores]) -> Iterator[tuple[str, ndarray]]:
    for number, item in enumerate(scores):
        sentence = [np.nan if logit is None else logit for logit in item.sentence_logit]
        yield f"sentence logits of caption {number}", np.array(sentence, dtype=np.float32)
        yield f"token logits of caption {number}", item.token_logit.astype(np.float32)
        yield f"type probabilities of caption {number}", item.p_type.astype(np.float32)


def _answer(request: Path, answer: Path) -> None:
    order = json.loads(request.read_text(encoding="utf-8"))
    torch.set_num_threads(order["threads"])
    detector = Detector.from_pretrained(order["folder"], device=order["device"])
    captions = [Caption.from_record(record) for record in order["captions"]]
    save_file(dict(_arrays(score_each(detector, captions))), answer)


if __name__ == "__main__":
    try:
        _answer(*map(Path, sys.argv[1:]))
    except HalspanError as error:
        sys.exit(f"error: {error}")
