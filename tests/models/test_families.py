"""The whole matrix for every family of backbones: a tiny random model of the real classes each."""

import json
import pickle
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText
from transformers.models.smolvlm import processing_smolvlm

from halspan.core.captions import Span
from halspan.core.errors import ModelError
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import combine, loss_terms
from halspan.models.backbones.components import plain_path, quantizable, state_of
from halspan.models.backbones.families import FAMILIES
from halspan.models.detector import SpanDetector
from halspan.models.inputs.context import PADDING
from halspan.models.inputs.encoding import Batch, RowEncoder, render_prompt
from halspan.models.model_spec import LoraSpec
from halspan.testing.tiny_detectors import CAPTIONS, SIZES, build, encode, saved
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import TEXTS, make_caption, make_image

CONTEXTS = ("causal", "echo", "bidirectional", "bidirectional_sentence")
WITHIN = 1e-4

# transformers' PaliGemma processor makes an array of a tensor as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
families = pytest.mark.parametrize("name", PROMPTS)


@torch.no_grad()
def states(detector: SpanDetector, batch: Batch) -> tuple[Tensor, ...]:
    """Return each caption's own states."""
    return detector.states(batch).split(batch.tokens_per_caption)


def assert_same(left: Sequence[Tensor], right: Sequence[Tensor], *, within: float = WITHIN) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=within)


def backward(detector: SpanDetector, encoder: RowEncoder) -> dict[str, Tensor | None]:
    """Return the gradients of one training pass; every term of the loss has something to say."""
    marked = make_caption("A red cat sat.", label="incorrect", spans=(Span(2, 5, "Attribute"),))
    weak = make_caption("A dog sits.", label="incorrect")
    weak = replace(weak, sentences=(replace(weak.sentences[0], types=("Object",)),))
    batch = encode(encoder, [marked, weak], [make_caption("A bird flies.", label="correct")])
    assert batch.targets is not None
    weights = LossWeights()
    combine(loss_terms(detector.train()(batch), batch.targets, weights), weights).backward()
    return {path: parameter.grad for path, parameter in detector.named_parameters()}


@families
def test_offsets_give_back_the_caption_behind_a_real_image_in_all_families(name):
    detector, encoder = build(name)
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    for caption, offsets in zip(batch.captions, batch.offsets, strict=True):
        pieces = dict.fromkeys(map(tuple, offsets.tolist()))
        assert "".join(caption.text[start:end] for start, end in pieces) == caption.text
    ids = batch.inputs["input_ids"][batch.token_row, batch.token_position].split(batch.tokens_per_caption)
    tokenizer = encoder._processor.tokenizer
    assert [tokenizer.decode(part) for part in ids] == [caption.text for caption in batch.captions]
    first, other = (encoder.collate([encoder.encode(make_image(seed), CAPTIONS[:1])]) for seed in (0, 1))
    assert (states(detector, first)[0] - states(detector, other)[0]).abs().max() > 1e-3, "the image has no effect"


@families
def test_states_are_the_models_own_in_all_families(name):
    detector, encoder = build(name, lora=None)
    image, caption = make_image(), make_caption("A man rides a red horse. He wears a hat. " * 2)
    batch = encoder.collate([encoder.encode(image, [caption])])
    inputs = dict(encoder._processor(text=[encoder._prompt], images=[image], return_tensors="pt"))
    n = batch.inputs["input_ids"].shape[1] - inputs["input_ids"].shape[1]
    inputs |= {"input_ids": batch.inputs["input_ids"], "attention_mask": torch.ones_like(batch.segments)}
    inputs.pop("labels", None)
    for key, of_caption in {"mm_token_type_ids": 0, "token_type_ids": int(name == "paligemma")}.items():
        if key in inputs:
            inputs[key] = F.pad(inputs[key], (0, n), value=of_caption)
    if (tiles := inputs.get("cross_attention_mask")) is not None:
        inputs["cross_attention_mask"] = torch.cat([tiles, tiles[:, -1:].expand(-1, n, -1, -1)], dim=1)
    model = AutoModelForImageTextToText.from_pretrained(saved(name), attn_implementation="eager")
    theirs: list[Tensor] = []
    decoder = model.get_submodule(FAMILIES[model.config.model_type].decoder)
    decoder.register_forward_hook(lambda module, given, output: theirs.append(output.last_hidden_state))
    with torch.no_grad():
        model(**inputs)
    torch.testing.assert_close(states(detector, batch)[0], theirs[0][0, -n:], rtol=0, atol=WITHIN)


@families
def test_what_a_token_sees_ahead_is_what_the_context_says_in_all_families(name):
    texts = ("A red cat sat. It ran.", "A red cat sad. It ran.", "A red cat sat. It ram.")
    sees = {"causal": (0, 0), "echo": (1, 1), "bidirectional": (1, 1), "bidirectional_sentence": (1, 0)}
    for context in CONTEXTS:
        detector, encoder = build(name, context=context)
        firsts = [states(detector, encode(encoder, [make_caption(text)]))[0][0] for text in texts]
        seen = tuple(int((other - firsts[0]).abs().max() > 1e-4) for other in firsts[1:])
        assert seen == sees[context], context


@families
def test_an_encoder_goes_to_processes_that_read_data_in_all_families(name):
    """What is spawned gets it pickled."""
    detector, encoder = build(name)
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(detector.states(encode(again, CAPTIONS)), detector.states(encode(encoder, CAPTIONS)))


@families
def test_padding_on_either_side_changes_nothing_in_all_families(name):
    detector, encoder = build(name)
    alone = states(detector, encode(encoder, CAPTIONS[:1]))[0]
    for side in ("left", "right"):
        encoder._processor.tokenizer.padding_side = side
        batch = encode(encoder, CAPTIONS[:1], [make_caption(" ".join(TEXTS))])
        assert (batch.segments[0] == PADDING).sum() > 20
        assert_same(states(detector, batch)[:1], [alone])


@families
def test_a_batch_is_judged_as_its_rows_one_by_one_in_all_families(name):
    detector, encoder = build(name)
    rows = [(CAPTIONS[0],), CAPTIONS[1:], (CAPTIONS[2], CAPTIONS[0])]
    images = [make_image(n, width=width, height=height) for n, (width, height) in enumerate(SIZES)]
    encoded = [encoder.encode(image, row) for image, row in zip(images, rows, strict=True)]
    alone = [state for row in encoded for state in states(detector, encoder.collate([row]))]
    assert_same(states(detector, encoder.collate(encoded)), alone)


@families
def test_captions_of_one_row_are_judged_as_if_each_were_alone_in_all_families(name):
    for context in CONTEXTS:
        detector, encoder = build(name, context=context)
        together = states(detector, encode(encoder, CAPTIONS))
        alone = [states(detector, encode(encoder, [caption]))[0] for caption in CAPTIONS]
        assert_same(together, alone)


@families
def test_lower_precision_and_fused_attention_give_nearly_the_same_in_all_families(name):
    detector, encoder = build(name)
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    exact = states(detector, batch)
    fused, _ = build(name, attention="sdpa")
    assert_same(states(fused, batch), exact)
    half, _ = build(name, attention="sdpa", dtype="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for left, right in zip(states(half, batch), exact, strict=True):
            assert (left.float() - right).norm() < 0.05 * right.norm()
        assert all(grad.isfinite().all() for grad in backward(half, encoder).values() if grad is not None)


@families
def test_gradients_reach_every_adapter_of_the_language_tower_and_nothing_else_in_all_families(name):
    detector, encoder = build(name)
    gradients = backward(detector, encoder)
    language = re.compile(FAMILIES[model_type(detector)].layers["language"])
    adapted = {
        path.split(".lora_")[0].removeprefix("backbone.base_model.model.") for path in gradients if "lora_" in path
    }
    linear = {path for path, module in detector.base_model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == linear == {path for path in adapted if language.fullmatch(path)}
    for path, gradient in gradients.items():
        is_trained = "lora_" in path or path.startswith(("token_head.", "sentence_head."))
        assert (gradient is not None) == is_trained, path
        if gradient is not None and path != "sentence_head.attention.bias":  # a softmax ignores a shift
            assert gradient.abs().max() > 0, path


@families
def test_trained_weights_alone_restore_a_detector_in_all_families(name, tmp_path):
    trained, encoder = build(name, seed=1)
    save_file(trained.trainable_state_dict(), tmp_path / "trained.safetensors")
    fresh, _ = build(name, seed=2)
    batch = encode(encoder, CAPTIONS)
    assert (states(fresh, batch)[0] - states(trained, batch)[0]).abs().max() > 1e-3
    fresh.load_trainable_state_dict(load_file(tmp_path / "trained.safetensors"))
    assert_same(states(fresh, batch), states(trained, batch), within=0)


@families
def test_merged_adapters_give_the_same_states_in_all_families(name):
    detector, encoder = build(name)
    batch = encode(encoder, CAPTIONS)
    before = states(detector, batch)
    detector.backbone = detector.backbone.merge_and_unload()
    assert not any("lora_" in path for path, _ in detector.named_parameters())
    assert_same(states(detector, batch), before)


@families
def test_gradient_checkpointing_gives_the_same_gradients_in_all_families(name):
    plain, encoder = build(name)
    checkpointed, _ = build(name, gradient_checkpointing=True)
    runs = {id(detector): count_runs(detector) for detector in (plain, checkpointed)}
    expected, actual = backward(plain, encoder), backward(checkpointed, encoder)
    assert len(runs[id(checkpointed)]) == 2 * len(runs[id(plain)]) > 0  # again in the backward pass
    for path, gradient in expected.items():
        if gradient is not None:
            torch.testing.assert_close(actual[path], gradient, rtol=0, atol=1e-6, msg=path)


@families
def test_4_bits_are_judged_as_the_dequantized_weights_in_all_families(name):
    quantized, encoder = build(name, quantize="nf4")
    plain, _ = build(name)
    weights = {plain_path(path): p.data for path, p in plain.backbone.named_parameters() if "lora_" not in path}
    in_4_bit = quantizable(plain.backbone, plain.family)
    for path, parameter in quantized.backbone.named_parameters():
        state = state_of(quantized.backbone, path)
        assert (state is not None) == (plain_path(path) in in_4_bit), path
        if state is not None:
            weights[plain_path(path)].copy_(dequantize_4bit(parameter.data, state))
    batch = encode(encoder, CAPTIONS)
    assert_same(states(quantized, batch), states(plain, batch))


@families
def test_frozen_towers_keep_no_graph_even_of_what_asks_for_one_in_all_families(name):
    detector, encoder = build(name, gradient_checkpointing=True)
    batch = encode(encoder, CAPTIONS)
    batch.inputs["pixel_values"].requires_grad_()
    outputs = []
    for path, module in detector.base_model.named_modules():
        if part_of(detector, f"{path}.weight") != "language tower":
            module.register_forward_hook(lambda module, given, output: outputs.append(output))
    detector.train().states(batch).sum().backward()
    kept = [output.requires_grad for output in outputs if torch.is_tensor(output)]
    assert kept
    assert not any(kept)


@families
def test_adapters_on_vision_and_projector_get_gradients_in_all_families(name):
    family = FAMILIES["internvl" if name == "internvl3" else name]
    components = sorted(family.layers.keys() - {"language"})
    for component in components:
        detector, encoder = build(name, lora=LoraSpec(r=2, alpha=4, dropout=0.0, targets=[component]))
        part = "projector" if component == "projector" else "vision tower"
        for path, gradient in backward(detector, encoder).items():
            if "lora_" in path:
                assert part_of(detector, path.removeprefix("backbone.")) == part
                assert gradient is not None, path
                assert gradient.abs().max() > 0, path


@families
def test_parts_cover_the_model_and_do_not_overlap_in_all_families(name):
    detector, _ = build(name)
    family = FAMILIES[model_type(detector)]
    for path, _ in detector.base_model.named_parameters():
        parts = [pattern for pattern in (family.vision, family.projector) if re.fullmatch(pattern, path)]
        is_of_language = path.startswith((f"{family.decoder}.", "lm_head.", "language_model."))
        assert len(parts) == (not is_of_language), path


def part_of(detector: SpanDetector, path: str) -> str:
    return detector._part_of(f"backbone.{path}")


def model_type(detector: SpanDetector) -> str:
    return str(detector.base_model.config.model_type)


def count_runs(detector: SpanDetector) -> list[None]:
    """Count how often a layer of the language tower runs."""
    runs: list[None] = []
    model = detector.base_model
    decoder = model.get_submodule(FAMILIES[model.config.model_type].decoder)
    # a part of the layer: checkpointing wraps the layer's own call
    decoder.layers[0].input_layernorm.register_forward_hook(lambda *_: runs.append(None))
    return runs


@pytest.mark.parametrize("name", ["idefics3", "llava"])
def test_without_its_row_a_plain_family_works_the_same(monkeypatch, name):
    detector, encoder = build(name)
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    monkeypatch.delitem(FAMILIES, name)
    by_default, _ = build(name)
    assert_same(states(by_default, batch), states(detector, batch), within=0)
    counts = by_default.trainable_parameters_by_component()
    assert counts == detector.trainable_parameters_by_component()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("gemma3", r"they differ by \d+%"), ("paligemma", r"they differ by \d+%"), ("mllama", "cannot read a row")],
)
def test_without_its_row_a_family_that_wants_more_is_an_error_that_says_what_to_add(monkeypatch, name, wrong):
    monkeypatch.delitem(FAMILIES, name)
    with pytest.raises(ModelError, match=rf"'{name}' is not in the table .*{wrong}.*: add a row"):
        build(name)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "internvl3", "llava_onevision", "smolvlm"])
def test_a_video_processor_beside_the_checkpoint_is_left_alone(name, tmp_path):
    folder = shutil.copytree(saved(name), tmp_path / name)
    video = {"video_processor_type": "Qwen3VLVideoProcessor"}  # which needs torchvision
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    file = folder / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"video_processor": video}))
    _, encoder = build(name, backbone=str(folder))
    assert encode(encoder, CAPTIONS).inputs["pixel_values"].shape[0] >= 1
    assert not hasattr(encoder._processor, "video_processor")


def test_smolvlm_shows_an_image_as_its_own_processor_would_if_it_could_be_built():
    processor = build("smolvlm")[1]._processor
    named = {"fake_token_around_image": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    for rows, columns in ((0, 0), (2, 3)):
        theirs = processing_smolvlm.get_image_prompt_string(
            rows, columns, processor.image_seq_len, image_token=processor.image_token, **named
        )
        assert processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0) == theirs
    processor.chat_template = processing_smolvlm.DEFAULT_CHAT_TEMPLATE
    text = render_prompt(processor, "What?")
    assert text == "<|im_start|>User:<image>What?<end_of_utterance>\nAssistant:"


def test_the_size_of_an_image_can_be_set():
    caption = [make_caption("A.")]
    small, large = (
        build("qwen2_5_vl", image={"size": {"shortest_edge": 256, "longest_edge": side * side}})[1] for side in (32, 64)
    )
    assert len(small.encode(make_image(), caption).prompt) < len(large.encode(make_image(), caption).prompt)


LARGE = {"size": {"height": 64, "width": 64}}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        *[("mllama", {"max_image_tiles": number}) for number in (1, 2, 5)],
        *[(name, LARGE) for name in ("llama4", "internvl3", "llava", "llava_onevision")],
        ("idefics3", {"max_image_size": {"longest_edge": 64}}),
        ("qwen2_5_vl", {"temporal_patch_size": 1}),
        ("qwen3_vl", {"merge_size": 1}),
    ],
)
def test_images_that_the_vision_tower_cannot_take_are_refused_when_the_detector_is_built(name, image):
    own = next(iter(image))
    with pytest.raises(ModelError, match=rf"model.image: .* cannot take .*{own}.* its own settings are {{'{own}': "):
        build(name, image=image)


def test_looking_at_an_image_when_a_detector_is_built_draws_no_random_numbers():
    after = []
    for image in ({}, {"max_image_tiles": 4}):
        build("mllama", image=image)
        after.append(torch.rand(1))
    assert after[0] == after[1]


def test_every_family_of_the_table_has_a_tiny_model():
    assert {"internvl" if name == "internvl3" else name for name in PROMPTS} == set(FAMILIES)
