from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from halspan.core.captions import Caption, Span
from halspan.core.errors import ModelError
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import Logits, combine, loss_terms
from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.encoding import Batch, RowEncoder
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.testing.tiny_models import TAXONOMY, TEXTS, MakeSpec, make_caption, make_image

CONTEXTS = ["causal", "echo", "bidirectional", "bidirectional_sentence"]
CAPTIONS = tuple(map(make_caption, TEXTS))


def build(spec: ModelSpec, *, seed: int = 0) -> tuple[SpanDetector, RowEncoder]:
    """Build a detector whose adapters do something: new ones are zero, and would hide mistakes."""
    torch.manual_seed(seed)
    detector, encoder = build_detector(spec, TAXONOMY)
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return detector.eval(), encoder


def encode(encoder: RowEncoder, *rows: tuple[Caption, ...]) -> Batch:
    return encoder.collate([encoder.encode(make_image(number), row) for number, row in enumerate(rows)])


@torch.no_grad()
def judge(detector: SpanDetector, batch: Batch) -> list[Logits]:
    """Return each caption's own logits."""
    logits = detector(batch)
    token = logits.token.split(batch.tokens_per_caption)
    types = logits.type.split(batch.tokens_per_caption)
    sentence = logits.sentence.split(batch.sentences_per_caption)
    return [Logits(token=a, type=b, sentence=c) for a, b, c in zip(token, types, sentence, strict=True)]


def assert_same(left: Logits, right: Logits, *, within: float = 1e-5) -> None:
    for name in ("token", "type", "sentence"):
        torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=0, atol=within)


@pytest.mark.parametrize("context", CONTEXTS)
def test_captions_behind_one_image_are_judged_as_if_each_were_alone(make_spec: MakeSpec, context):
    detector, encoder = build(make_spec(context=context))
    together = judge(detector, encode(encoder, CAPTIONS))
    for caption, logits in zip(CAPTIONS, together, strict=True):
        assert_same(logits, judge(detector, encode(encoder, (caption,)))[0])


def test_packing_changes_no_result(make_spec: MakeSpec):
    spec = make_spec(context="bidirectional")
    detector, encoder = build(spec)
    spread, spread_encoder = build(replace(spec, pack_tokens=1))
    batch = encode(spread_encoder, CAPTIONS)
    assert len(batch.segments) == len(CAPTIONS)
    for left, right in zip(judge(detector, encode(encoder, CAPTIONS)), judge(spread, batch), strict=True):
        assert_same(left, right)


def test_a_batch_is_judged_as_its_rows_one_by_one(make_spec: MakeSpec):
    detector, encoder = build(make_spec())
    rows = [(CAPTIONS[0],), CAPTIONS[1:], (CAPTIONS[2], CAPTIONS[0])]
    together = judge(detector, encode(encoder, *rows))
    encoded = [encoder.encode(make_image(number), row) for number, row in enumerate(rows)]
    alone = [logits for row in encoded for logits in judge(detector, encoder.collate([row]))]
    for left, right in zip(together, alone, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_caption_never_sees_another(make_llava_spec: MakeSpec, context):
    detector, encoder = build(make_llava_spec(context=context))
    first = judge(detector, encode(encoder, CAPTIONS[:2]))
    other = judge(detector, encode(encoder, (CAPTIONS[0], make_caption("Quite another text!"))))
    assert_same(first[0], other[0], within=1e-6)


@pytest.mark.parametrize(
    ("context", "sees_word_ahead", "sees_sentence_ahead"),
    [
        ("causal", False, False),
        ("echo", True, True),
        ("bidirectional", True, True),
        ("bidirectional_sentence", True, False),
    ],
)
def test_what_a_token_sees_ahead_is_what_the_context_says(
    make_spec: MakeSpec, context, sees_word_ahead, sees_sentence_ahead
):
    detector, encoder = build(make_spec(context=context))
    texts = ["A red cat sat. It ran.", "A red cat sad. It ran.", "A red cat sat. It ram."]
    same, word, sentence = (judge(detector, encode(encoder, (make_caption(text),)))[0].token[0] for text in texts)
    assert (abs(word - same) > 1e-4) == sees_word_ahead
    assert (abs(sentence - same) > 1e-4) == sees_sentence_ahead


def test_the_image_has_an_effect(make_spec: MakeSpec):
    detector, encoder = build(make_spec())
    row, other = (encoder.encode(make_image(seed), CAPTIONS[:1]) for seed in (0, 1))
    left, right = (judge(detector, encoder.collate([one]))[0] for one in (row, other))
    assert (left.token - right.token).abs().max() > 1e-3


def test_states_are_the_models_own_last_hidden_states(make_llava_spec: MakeSpec):
    detector, encoder = build(make_llava_spec(lora=None))
    batch = encode(encoder, CAPTIONS[:1])
    inputs = batch.inputs | {"attention_mask": torch.ones_like(batch.segments)}
    with torch.no_grad():
        expected = detector.backbone(**inputs, output_hidden_states=True).hidden_states[-1]
        actual = detector.states(batch)
    torch.testing.assert_close(actual, expected[0, 9:], rtol=0, atol=1e-5)


def test_no_vocabulary_logits_are_computed(make_spec: MakeSpec):
    detector, encoder = build(make_spec(lora=None))
    shapes = []
    head = detector.backbone.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    judge(detector, encode(encoder, CAPTIONS))
    assert all(shape.numel() == 0 for shape in shapes)


def test_both_attention_implementations_agree(make_spec: MakeSpec):
    (eager, encoder), (sdpa, _) = (build(make_spec(context="echo", attention=name)) for name in ("eager", "sdpa"))
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    for left, right in zip(judge(eager, batch), judge(sdpa, batch), strict=True):
        assert_same(left, right)


@pytest.mark.parametrize(("dtype", "autocast"), [("float32", True), ("bfloat16", False), ("bfloat16", True)])
def test_heads_stay_in_float32_in_lower_precision(make_spec: MakeSpec, dtype, autocast):
    detector, encoder = build(make_spec(dtype=dtype))
    batch = encode(encoder, CAPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        low = judge(detector, batch)
        assert detector.states(batch).dtype in (torch.bfloat16, torch.float32)
    exact, _ = build(make_spec())
    assert {parameter.dtype for parameter in detector.token_head.parameters()} == {torch.float32}
    for left, right in zip(low, judge(exact, batch), strict=True):
        assert left.token.dtype == torch.float32
        assert_same(left, right, within=0.15)  # bfloat16 keeps 8 bits; measured 0.06


def labeled() -> tuple[Caption, ...]:
    """Return captions that every term of the loss has something to say about."""
    marked = make_caption("A red cat sat.", label="incorrect", spans=(Span(2, 5, "Attribute"),))
    weak = make_caption("A dog sits.", label="incorrect")
    weak = replace(weak, sentences=(replace(weak.sentences[0], types=("Object",)),))
    return marked, weak, make_caption("A bird flies.", label="correct")


def backward(detector: SpanDetector, encoder: RowEncoder) -> None:
    batch = encode(encoder, labeled())
    assert batch.targets is not None
    weights = LossWeights()
    combine(loss_terms(detector(batch), batch.targets, weights), weights).backward()


def test_gradients_reach_every_adapter_and_head_and_nothing_else(make_spec: MakeSpec):
    detector, encoder = build(make_spec())
    backward(detector.train(), encoder)
    for name, parameter in detector.named_parameters():
        is_trained = "lora_" in name or name.startswith(("token_head.", "sentence_head."))
        assert parameter.requires_grad == is_trained, name
        assert (parameter.grad is not None) == is_trained, name
        if parameter.grad is not None and name != "sentence_head.attention.bias":  # a softmax ignores a shift
            assert parameter.grad.abs().max() > 0, name


def test_without_lora_the_heads_alone_are_trained(make_llava_spec: MakeSpec):
    detector, encoder = build(make_llava_spec(lora=None))
    backward(detector.train(), encoder)
    assert {name.split(".")[0] for name in detector.trainable_state_dict()} == {"token_head", "sentence_head"}
    assert all(parameter.grad is None for parameter in detector.backbone.parameters())


def test_no_graph_is_kept_of_a_frozen_vision_tower(make_llava_spec: MakeSpec):
    detector, encoder = build(make_llava_spec())
    needed = []
    projector = detector.backbone.get_base_model().model.multi_modal_projector
    projector.register_forward_hook(lambda module, inputs, output: needed.append(output.requires_grad))
    detector.train()(encode(encoder, CAPTIONS))
    assert needed == [False]


def test_trained_weights_alone_restore_a_detector(make_spec: MakeSpec, tmp_path):
    trained, encoder = build(make_spec(), seed=1)
    save_file(trained.trainable_state_dict(), tmp_path / "trained.safetensors")
    fresh, _ = build(make_spec(), seed=2)
    batch = encode(encoder, CAPTIONS)
    assert (judge(fresh, batch)[0].token - judge(trained, batch)[0].token).abs().max() > 1e-3
    fresh.load_trainable_state_dict(load_file(tmp_path / "trained.safetensors"))
    for left, right in zip(judge(fresh, batch), judge(trained, batch), strict=True):
        assert_same(left, right, within=0)


def test_trained_weights_of_another_detector_are_an_error(make_llava_spec: MakeSpec):
    detector, _ = build(make_llava_spec())
    other, _ = build(make_llava_spec(lora=None))
    with pytest.raises(ModelError, match=r"trained weights: 28 differ .*: absent instead of \(4, 96\)"):
        detector.load_trainable_state_dict(other.trainable_state_dict())
    more_types, _ = build_detector(make_llava_spec(lora=None), ("Attribute", "Object", "Number"))
    with pytest.raises(ModelError, match=r"'token_head.of_type.bias': \(3,\) instead of \(2,\)"):
        other.load_trainable_state_dict(more_types.trainable_state_dict())


def test_adapters_of_experts_count_with_the_experts(make_llama4_spec: MakeSpec):
    lora = LoraSpec(r=2, alpha=4, dropout=0.0, targets=["experts"], rslora=True)
    counts = build(make_llama4_spec(lora=lora))[0].trainable_parameters_by_component()
    assert counts["experts"][0] == 2 * 2 * 4 * (64 + 192 + 96 + 64)  # layers, rank, experts; gate_up and down
    assert counts["language tower"][0] == 0


def test_parameters_are_counted_by_component(make_spec: MakeSpec):
    detector, _ = build(make_spec())
    counts = detector.trainable_parameters_by_component()
    assert [part for part in counts if part != "experts"] == [
        "vision tower", "projector", "language tower", "token head", "sentence head"
    ]  # fmt: skip
    assert counts.get("experts") == ((0, 2 * 4 * 3 * 64 * 96) if detector.family.experts else None)
    assert counts["vision tower"][0] == counts["projector"][0] == 0
    assert counts["token head"] == (2 * 2 * 64 + 129 + 2 * 129,) * 2  # two norms, hallucinated, two types
    assert counts["sentence head"] == (2 * 64 + 65 + 66,) * 2  # norm, attention, state and strongest token
    n_adapted = sum(p.numel() for name, p in detector.named_parameters() if "lora_" in name)
    assert counts["language tower"][0] == n_adapted
    assert sum(total for _, total in counts.values()) == sum(p.numel() for p in detector.parameters())


def test_adapters_on_a_backbone_in_4_bit_get_gradients(make_spec: MakeSpec):
    detector, encoder = build(make_spec(quantize="nf4", dtype="bfloat16"))
    kinds = {name: type(module).__name__ for name, module in detector.backbone.named_modules()}
    in_4_bit = [name for name, kind in kinds.items() if kind == "Linear4bit"]
    assert in_4_bit
    assert not any("vision" in name or "projector" in name or "lm_head" in name for name in in_4_bit)
    backward(detector.train(), encoder)
    assert all(p.grad is not None for name, p in detector.named_parameters() if "lora_" in name)


def test_captions_beyond_the_window_leave_a_batch_without_tokens(make_llava_spec: MakeSpec):
    detector, encoder = build(make_llava_spec(max_tokens=12))
    batch = encode(encoder, (make_caption("A long sentence."),))
    logits = detector(batch)
    assert logits.token.shape == (0,)
    assert logits.sentence.isfinite().all()
    assert batch.unscored == (("does not fit the window of 12 tokens",),)


def test_a_window_beyond_the_backbones_is_an_error(make_llava_spec: MakeSpec):
    with pytest.raises(ModelError, match=r"model.max_tokens: 2000 is more than the 1024 positions"):
        build_detector(make_llava_spec(max_tokens=2000), TAXONOMY)


def test_new_adapters_leave_the_backbones_states_as_they_are(make_llava_spec: MakeSpec):
    torch.manual_seed(0)
    (adapted, encoder), (plain, _) = (build_detector(make_llava_spec(**c), TAXONOMY) for c in ({}, {"lora": None}))
    batch = encode(encoder, CAPTIONS)
    np.testing.assert_array_equal(adapted.eval().states(batch).detach(), plain.eval().states(batch).detach())
