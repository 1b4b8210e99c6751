"""The shapes backbone is pre-trained on true captions of scenes that the corpus does not hold."""

import random

import pretrain
import pytest
import torch
import true_captions
from transformers import PreTrainedTokenizerFast

from halspan.data.shapes import Shapes, captioning
from halspan.data.shapes.language import Statement
from halspan.data.shapes.scenes import Scene, Thing, sample_scene
from halspan.data.shapes.world import _plan, image_seed


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return true_captions.build_tokenizer()


def test_no_scene_of_the_corpus_is_seen_in_pre_training() -> None:
    world = {sample_scene(image_seed(0, image)) for image, _ in _plan(Shapes().photos)}
    seeds = (random.Random(f"{true_captions.STREAM}/{i}") for i in range(pretrain.STEPS * pretrain.ROWS_PER_STEP))
    seen = {true_captions.thinned(sample_scene(rng), rng) for rng in seeds}
    assert len(seen) > len(world)
    assert world.isdisjoint(seen)


def test_no_wrong_statement_can_be_worded_in_pre_training(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a statement was corrupted")

    monkeypatch.setattr(captioning, "corrupt", refuse)
    monkeypatch.setattr("halspan.data.shapes.language._ERRORS", {})
    rows = true_captions.TrueCaptions(tokenizer, start=0)
    made = [row for row, _ in zip(rows, range(50), strict=False)]
    assert {row.causal for row in made} == {True, False}


def test_masked_rows_ask_for_the_words_they_hide_or_blur_and_causal_rows_for_every_word(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for row, _ in zip(true_captions.TrueCaptions(tokenizer, start=0), range(20), strict=False):
        if row.causal:
            assert row.labels == row.ids
            assert not any(row.blur)
            continue
        masked = [token == tokenizer.mask_token_id for token in row.ids]
        blurred = [blur > 0 for blur in row.blur]
        asked = [hidden or seen for hidden, seen in zip(masked, blurred, strict=True)]
        assert masked == row.salient
        assert asked == [label != -100 for label in row.labels]
        assert not any(hidden and seen for hidden, seen in zip(masked, blurred, strict=True))
        right = [label in (-100, token) for label, token in zip(row.labels, row.ids, strict=True)]
        assert [not same for same in right] == masked  # a blurred word asks for itself
        assert 0.05 < sum(masked) / len(masked) < 0.6


def test_noise_keeps_the_length_of_embeddings_and_leaves_the_others_alone() -> None:
    words = torch.randn(1, 2, 10_000)
    clear, noisy = pretrain.blurred(words, torch.tensor([[0.0, 3.0]]))[0]
    assert torch.equal(clear, words[0, 0])
    assert noisy.std().item() == pytest.approx(1.0, abs=0.05)
    assert torch.corrcoef(torch.stack([noisy, words[0, 1]]))[0, 1].item() == pytest.approx(10**-0.5, abs=0.05)


def test_words_point_at_the_cells_they_speak_of() -> None:
    circle, star = Thing("circle", "red", size="small"), Thing("star", "red")
    scene = Scene("white", (circle, None, None, None, star, None, None, None, circle))
    place = Statement("place", {"color": "red", "shape": "circle", "place": "bottom right"})
    assert true_captions.cells_of(place, scene) == dict.fromkeys(("color", "shape", "place"), 1 << 8)
    number = Statement("number", {"number": "two", "shape": "circle"})
    assert true_captions.cells_of(number, scene) == dict.fromkeys(("number", "shape"), 1 << 0 | 1 << 8)
    slots = {"color": "red", "shape": "star", "relation": "below", "color2": "red", "shape2": "circle"}
    pointed = true_captions.cells_of(Statement("relation", slots), scene)
    assert (pointed["shape"], pointed["shape2"]) == (1 << 4, 1 << 0 | 1 << 8)
    assert "relation" not in pointed


def test_common_words_are_single_tokens_and_any_text_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in (" circle", " striped", " left", " beige"):
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
    for text in ("Ein rötliches Dreieck.", "赤い丸 🟥"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
