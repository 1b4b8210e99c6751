"""Save a CLIP with random weights, for untrained baselines.

Command: python experiments/evaluation/tiny_clip.py
"""

from pathlib import Path

from halspan.testing.tiny_dual_encoders import save_tiny_dual_encoder

FOLDER = Path("data/tiny_clip")

if __name__ == "__main__":
    save_tiny_dual_encoder("clip", FOLDER)
    print(f"Written to {FOLDER}.")
