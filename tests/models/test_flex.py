"""`model.attention=flex`: block masks are the additive ones, and states those of sdpa."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import LlamaConfig, LlamaModel

from halspan.core.errors import ModelError
from halspan.models.backbones.flex import compile_attention, use_flex
from halspan.models.inputs.context import NO_BLOCK, PADDING, PROMPT, block_masks, layer_masks
from halspan.models.plan.memory import PassSize, make_plan
from halspan.testing.tiny_detectors import CAPTIONS, build, encode, spec_of
from halspan.testing.tiny_families import PROMPTS

CONTEXTS = ("causal", "echo", "bidirectional", "bidirectional_sentence")
KINDS = {"full_attention": None, "sliding_attention": 9, "chunked_attention": 7}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def drawn(n: int, *, n_rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw rows: a prompt with a block, captions with and without blocks, padding."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n_rows):
        n_prompt, n_padding = torch.randint(3, n // 3, (2,), generator=generator).tolist()
        rest = n - n_prompt - n_padding
        captions = torch.randint(0, 4, (rest,), generator=generator).sort().values
        segments = torch.cat([torch.full((n_prompt,), PROMPT), captions, torch.full((n_padding,), PADDING)])
        sentences = torch.where(
            torch.rand(rest, generator=generator) < 0.2, NO_BLOCK, captions * 8 + torch.arange(rest) // 5
        )
        blocks = torch.cat([torch.full((n_prompt,), -2), sentences, torch.full((n_padding,), NO_BLOCK)])
        starts = torch.searchsorted(captions, captions)
        order = torch.cat(
            [torch.arange(n_prompt), n_prompt + torch.arange(rest) - starts, torch.zeros(n_padding)]
        ).long()
        rows.append((segments, blocks, order))
    segments, blocks, order = (torch.stack(parts) for parts in zip(*rows, strict=True))
    return segments, blocks, order


def sees(kind: str, query: int, key: int, segments: list[int], blocks: list[int], order: list[int]) -> bool:
    """Say it pair by pair, as the documents do."""
    is_before = key <= query and segments[key] in (segments[query], PROMPT)
    is_together = blocks[key] == blocks[query] != NO_BLOCK
    near = {
        "full_attention": True,
        "sliding_attention": order[query] - order[key] < 9,
        "chunked_attention": order[query] // 7 == order[key] // 7,
    }
    return (is_before or is_together) and near[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_mask_and_the_additive_one_let_through_the_pairs_that_see_each_other(kind):
    n, places = 70, range(70)
    for seed in range(3):
        rows = drawn(n, seed=seed)
        lists = list(zip(*(part.tolist() for part in rows), strict=True))
        expected = [[[sees(kind, query, key, *row) for key in places] for query in places] for row in lists]
        mask = block_masks({kind: KINDS[kind]}, *rows)[kind]
        assert mask.shape == (2, 1, n, n)
        assert create_mask(mask.mask_mod, 2, 1, n, n, "cpu")[:, 0].tolist() == expected
        additive = layer_masks({kind: KINDS[kind]}, *rows, dtype=torch.float32)[kind]
        assert (additive[:, 0] == 0).tolist() == expected


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ["gemma3", "llama4", "paligemma"])  # sliding, chunked, a prompt that sees itself
def test_block_masks_of_real_rows_are_the_additive_ones_in_every_context(name, context):
    masks = []
    for attention in ("sdpa", "flex"):
        detector, encoder = build(name, context=context, attention=attention)
        batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
        masks.append(detector._masks(batch, batch.inputs))
    additive, blocks = masks
    n = next(iter(additive.values())).shape[-1]
    assert additive.keys() == blocks.keys()
    for kind, mask in blocks.items():
        assert mask.shape[-1] % 128 == 0
        seen = create_mask(mask.mask_mod, *mask.shape, "cpu")
        assert torch.equal(seen[..., :n, :n], additive[kind] == 0)
        assert not seen[:, :, :n, n:].any(), "something sees the padding"
        assert seen.any(dim=-1).all(), "a softmax over nothing"


def test_a_block_mask_is_built_outside_inference_mode():
    with torch.inference_mode():
        mask = block_masks({"full_attention": None}, *drawn(64))["full_attention"]
    assert not mask.kv_indices.is_inference()
    assert not any(cell.cell_contents.is_inference() for cell in mask.mask_mod.__closure__)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", PROMPTS)
def test_states_are_those_of_sdpa_in_all_families_and_contexts(name, context):
    detector, encoder = build(name, context=context, attention="sdpa")
    with torch.no_grad():
        expected = detector.states(encode(encoder, CAPTIONS, CAPTIONS[:1]))
    detector, encoder = build(name, context=context, attention="flex")
    batch = encode(encoder, CAPTIONS, CAPTIONS[:1])
    assert batch.segments.shape[1] % 128 == 0
    given = record_masks(detector)
    with torch.inference_mode():
        states = detector.states(batch)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)
    assert given, "no layer was seen"
    assert all(isinstance(mask, BlockMask) for mask in given)
    kinds = {id(mask) for mask in given}
    assert len(kinds) == len(detector._kinds), "layers of a kind share a mask"


def record_masks(detector: nn.Module) -> list[object]:
    """Record the mask that every layer of self-attention gets."""
    given: list[object] = []
    for path, module in detector.decoder.named_modules():
        if path.endswith("self_attn"):
            module.register_forward_pre_hook(
                lambda _module, inputs, named: given.append(named["attention_mask"]), with_kwargs=True
            )
    return given


def test_the_vision_tower_keeps_sdpa():
    detector, _ = build("qwen2_5_vl", attention="flex")
    config = detector.base_model.config
    assert config.vision_config._attn_implementation == "sdpa"
    assert "_flex" in config.get_text_config()._attn_implementation


def test_all_lengths_rows_and_kinds_of_layers_share_four_graphs():
    """One row or several, and one block or several: torch makes a number of its own of a size 1."""
    counter = CompileCounter()
    attend = compile_attention(counter)
    for n_rows in (1, 2, 3, 5):
        for n in (128, 384, 256):
            query = torch.randn(n_rows, 4, n, 16)
            key, value = torch.randn(2, n_rows, 2, n, 16)
            rows = drawn(n, n_rows=n_rows)
            masks = layer_masks(KINDS, *rows, dtype=torch.float32)
            for kind, mask in block_masks(KINDS, *rows).items():
                read = attend(query, key, value, block_mask=mask, enable_gqa=True)
                same = F.scaled_dot_product_attention(query, key, value, masks[kind], enable_gqa=True)
                torch.testing.assert_close(read, same, rtol=0, atol=1e-5)
    assert counter.frame_count == 4


def test_too_many_variants_are_an_error_and_not_slow_in_silence():
    attend = compile_attention(CompileCounter())
    attend(*torch.randn(3, 1, 2, 128, 16))
    error = torch._dynamo.exc.FailOnRecompileLimitHit
    with torch._dynamo.config.patch(recompile_limit=1), pytest.raises(error):
        attend(*torch.randn(3, 1, 2, 128, 16, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head_dim": 8}, "has heads of 8 numbers, and at least 16 are needed"),
        ({"attention_dropout": 0.1}, "drops attention in training"),
        ({"attn_logit_softcapping": 50.0}, "caps its scores"),
    ],
)
def test_backbones_that_flex_does_not_suit_are_refused_with_the_key(change, reason):
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 8, "head_dim": 16}
    with torch.device("meta"):
        decoder = LlamaModel(LlamaConfig(**(sizes | change)))
    with pytest.raises(ModelError, match=rf"model\.attention: flex does not suit .*LlamaModel {reason}"):
        use_flex(decoder)


def test_the_plan_counts_no_mask_of_all_pairs_for_flex():
    size = PassSize(tokens=2048, is_mixed=False)
    dense, blocks = (make_plan(spec_of("llava", attention=each), size) for each in ("sdpa", "flex"))
    assert dense.peak - blocks.peak == 2048 * 1024 * 4  # tokens, tokens of a line, bytes
