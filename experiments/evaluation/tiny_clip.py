"""Save a CLIP with random weights, for baselines that nobody trained.

Command: python experiments/evaluation/tiny_clip.py
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS / "baselines"), str(TESTS / "models")]

from tiny_dual_encoders import save_tiny_dual_encoder  # noqa: E402

FOLDER = Path("data/tiny_clip")

if __name__ == "__main__":
    save_tiny_dual_encoder("clip", FOLDER)
    print(f"Written to {FOLDER}.")
