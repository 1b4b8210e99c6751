"""Run the matrix of families, measure the tiny models, and write README.md.

Command: python experiments/families/run.py
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from halspan.models.backbones.families import FAMILIES, Family
from halspan.testing.tiny_detectors import CAPTIONS, build, encode
from halspan.testing.tiny_families import PROMPTS

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests" / "models"

CHECKS = {
    "test_offsets_give_back_the_caption_behind_a_real_image": "alignment",
    "test_states_are_the_models_own": "own states",
    "test_what_a_token_sees_ahead_is_what_the_context_says": "contexts",
    "test_padding_on_either_side_changes_nothing": "padding",
    "test_a_batch_is_judged_as_its_rows_one_by_one": "batches",
    "test_captions_of_one_row_are_judged_as_if_each_were_alone": "sharing",
    "test_lower_precision_and_fused_attention_give_nearly_the_same": "bf16, SDPA",
    "test_gradients_reach_every_adapter_of_the_language_tower_and_nothing_else": "gradients",
    "test_adapters_on_vision_and_projector_get_gradients": "vision LoRA",
    "test_trained_weights_alone_restore_a_detector": "save, load",
    "test_merged_adapters_give_the_same_states": "merge",
    "test_gradient_checkpointing_gives_the_same_gradients": "checkpointing",
    "test_4_bits_are_judged_as_the_dequantized_weights": "4 bits",
    "test_frozen_towers_keep_no_graph_even_of_what_asks_for_one": "frozen towers",
}
"""Tests of the matrix, and what they are called in the table."""

HEAD = """\
# Eleven families of backbones behind one interface

**Question.** Does everything that a detector needs hold for every family: offsets, contexts,
padding, several captions behind one image, LoRA, memory?

**Command.** `python experiments/families/run.py` makes this page; `pytest tests -k families` runs
the checks alone.

Each column is a test in `tests/models/test_families.py`, on a tiny random model of the real classes
with a processor built offline, on the CPU, in float32 but for one. `own states`: for one causal
caption, the states are those of the model's own forward pass with its own positions and masks
(within 1e-4). `contexts`: a word sees ahead what `causal`, `echo`, `bidirectional` and
`bidirectional_sentence` say, no more and no less. `sharing`: captions behind one image are judged
as if each were alone (within 1e-4), in all four contexts. `bf16, SDPA`: fused attention is within
1e-4; bfloat16 with autocast within 5 % of the states' length. `checkpointing`: the same gradients
(within 1e-6), and layers do run again. `4 bits`: `model.quantize=nf4` gives the states of the same
weights dequantized (within 1e-4). `frozen towers`: vision tower and projector keep no graph.
"""

TAIL = """
No family needs the plain path (one caption a row, causal): sliding windows and chunks count
distances along each caption, M-RoPE positions go on behind the prompt's in every caption, and
cross-attention reads the image for each token by itself.

"ms" is the processor time of one thread for one caption of the tiny model, best of five passes over
{n_captions} captions in {n_rows} rows: a check that no family is out of line, not a measure of the real models.
None of the real checkpoints was run here.

Pixtral and Mistral-3 are left out: their processor needs torchvision, which halspan does without.
"""


class Matrix:
    """Collects which test passed for which family."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep a test's outcome; a failed setup counts."""
        test, _, name = report.nodeid.rpartition("::")[2].partition("_in_all_families[")
        if name and (report.when == "call" or report.outcome != "passed"):
            self.outcomes[test, name.rstrip("]")] = report.outcome


def main() -> None:
    """Write the page; fail if a check does."""
    torch.set_num_threads(1)
    matrix = Matrix()
    code = pytest.main([str(TESTS / "test_families.py"), "-q", "-p", "no:cacheprovider"], plugins=[matrix])
    lines = list(table(matrix.outcomes))
    tail = TAIL.format(n_captions=2 * len(CAPTIONS), n_rows=2)
    (HERE / "README.md").write_text("\n".join([HEAD, *lines, tail]), encoding="utf-8")
    print("\n".join(lines))
    sys.exit(code)


def table(outcomes: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Write a line for each family."""
    columns = ["family", *CHECKS.values(), "ms", "limits"]
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for name in PROMPTS:
        family = FAMILIES["internvl" if name == "internvl3" else name]
        cells = [cell(outcomes.get((test, name)), test, family) for test in CHECKS]
        yield f"| {name} | {' | '.join(cells)} | {milliseconds(name):.1f} | {family.limit} |"


def cell(outcome: str | None, test: str, family: Family) -> str:
    """Return how a check ended."""
    if outcome != "passed":
        return outcome or "not run"
    if CHECKS[test] == "vision LoRA" and "projector" not in family.layers:
        return "vision only"
    return "yes"


def milliseconds(name: str) -> float:
    """Measure one caption's share of a pass."""
    detector, encoder = build(name)
    batch = encode(encoder, CAPTIONS, CAPTIONS)
    times = []
    for _ in range(6):
        start = time.process_time()
        with torch.no_grad():
            detector(batch)
        times.append(time.process_time() - start)
    return 1000 * min(times[1:]) / len(batch.captions)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
