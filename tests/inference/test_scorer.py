from dataclasses import replace

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image

from halspan.core.captions import Caption, Sentence
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.data.rows import Row
from halspan.inference.forward import score_batch
from halspan.inference.scorer import Scorer
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec

TEXTS = ("A man rides a red horse. He wears a hat.", "Мужчина едет. 👩‍👩‍👧 и 马 стоят!", "It is a bus.")


def caption(number):
    text = TEXTS[number]
    cut = text.index(". ") + 1 if ". " in text else len(text)
    ranges = [(0, cut), (cut + 1, len(text))] if cut < len(text) else [(0, cut)]
    return Caption(str(number), "a.png", "g", "image_to_text", text, tuple(Sentence(*pair) for pair in ranges))


def spec(max_tokens=512):
    return ModelSpec(
        backbone="builtin:llama4-tiny",
        prompt="What is wrong?",
        context="causal",
        max_tokens=max_tokens,
        pack_tokens=512,
        dtype="float32",
        attention="eager",
        lora=LoraSpec(r=2, alpha=4, dropout=0.5, targets=["language"]),
    )


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(spec(), ("Attribute", "Object"))


TOKENS_OF_A_ROW = 600  # no two rows of these tests fit together


def run(detector, rows, batch_tokens=TOKENS_OF_A_ROW):
    def read_image(path):
        return Image.new("RGB", (32, 32), path.stem)

    return list(Scorer(*detector, spec()).score_rows(rows, read_image=read_image, batch_tokens=batch_tokens))


def row(color, *numbers):
    from pathlib import Path

    return Row(Path(f"{color}.png"), tuple(caption(number) for number in numbers))


def test_captions_come_in_the_order_of_the_rows_with_one_score_for_each_token_and_sentence(detector):
    scores = run(detector, [row("red", 0, 1), row("blue", 2)], batch_tokens=10**6)
    assert [item.caption.id for item in scores] == ["0", "1", "2"]
    for item in scores:
        assert len(item.offsets) == len(item.token_logit) == len(item.p_type)
        assert item.offsets.max() == len(item.caption.text)
        assert len(item.sentence_logit) == len(item.unscored) == len(item.caption.sentences)
        np.testing.assert_allclose(item.p_type.sum(axis=1), 1, rtol=1e-5)


def test_scores_do_not_depend_on_what_shares_the_row_or_the_pass(detector):
    together = run(detector, [row("red", 0, 1, 2), row("blue", 0)], batch_tokens=10**6)
    alone = run(detector, [row("red", 0), row("red", 1), row("red", 2), row("blue", 0)])
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.token_logit, other.token_logit, atol=1e-4)
        np.testing.assert_allclose(one.sentence_logit, other.sentence_logit, atol=1e-5)


def test_scoring_turns_dropout_off_and_looks_at_the_image(detector):
    first, second, other = (run(detector, [row(color, 0)])[0] for color in ("red", "red", "blue"))
    assert first.sentence_logit == second.sentence_logit
    assert first.sentence_logit != other.sentence_logit


def test_a_sentence_beyond_the_window_is_scored_in_one_of_its_own():
    detector, encoder = build_detector(spec(), ("Attribute",))
    n_prompt = len(encoder.encode(Image.new("RGB", (32, 32)), [caption(0)]).prompt)
    detector, encoder = build_detector(spec(max_tokens=n_prompt + 12), ("Attribute",))
    (item,) = run((detector, encoder), [row("red", 0)])
    assert item.unscored == (None, None)
    assert all(logit is not None for logit in item.sentence_logit)


def test_the_cost_counts_each_row_of_the_input_and_no_padding(detector):
    passes = []
    rows = [row("red", 0, 1), row("blue", 2)]
    images = {"red": Image.new("RGB", (32, 32), "red"), "blue": Image.new("RGB", (32, 32), "blue")}
    scorer = Scorer(*detector, spec())
    list(scorer.score_rows(rows, read_image=lambda path: images[path.stem], batch_tokens=10**6, on_pass=passes.append))
    encoder = detector[1]
    encoded = [encoder.encode(images[r.image.stem], r.captions, targets=False) for r in rows]
    n_tokens = sum(len(item.prompt) + sum(len(c.ids) for c in item.captions) for item in encoded)
    assert passes == [Cost(image_encodings=2, tokens=n_tokens, sentences=5)]


def test_scores_that_are_not_numbers_are_an_error():
    detector, encoder = build_detector(spec(), ("Attribute",))
    with torch.no_grad():
        detector.token_head.hallucinated.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="scores that are not finite numbers, first for captions such as '0'"):
        run((detector, encoder), [row("red", 0)])


@pytest.mark.parametrize(("dtype", "is_merged"), [("float32", True), ("bfloat16", False)])
def test_adapters_are_merged_in_float32_alone_and_once(dtype, is_merged):
    chosen = replace(spec(), dtype=dtype)
    detector, encoder = build_detector(chosen, ("Attribute",))
    for path, parameter in detector.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = encoder.collate([encoder.encode(Image.new("RGB", (32, 32)), [caption(0)], targets=False)])
    before = next(score_batch(detector.eval(), batch))
    layers = [module for module in detector.modules() if isinstance(module, BaseTunerLayer)]
    for _ in range(2):
        Scorer(detector, encoder, chosen)
        assert {layer.merged for layer in layers} == {is_merged}
        after = next(score_batch(detector, batch))
        np.testing.assert_allclose(after.token_logit, before.token_logit, rtol=0, atol=1e-5 if is_merged else 0)
