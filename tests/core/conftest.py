"""A real byte-level BPE tokenizer, small enough to be trained in a moment."""

from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

Tokenize = Callable[[str], np.ndarray]


def _train(*, trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    texts = ["A man rides a red horse. He wears a hat.", "two red horses", "naïve café", "日本語"]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return tokenizer


@pytest.fixture(scope="session", params=[False, True], ids=["spaces in offsets", "spaces trimmed"])
def tokenize(request: pytest.FixtureRequest) -> Tokenize:
    """Tokenize a text to its (token, 2) offsets."""
    tokenizer = _train(trim_offsets=request.param)
    return lambda text: np.array(tokenizer.encode(text).offsets, dtype=np.int64).reshape(-1, 2)
