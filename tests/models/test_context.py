from types import SimpleNamespace

import pytest
import torch
from transformers import Llama4TextConfig
from transformers.masking_utils import create_chunked_causal_mask, create_sliding_window_causal_mask

from halspan.core.errors import ModelError
from halspan.models.inputs.context import FULL, NO_BLOCK, PADDING, PROMPT, layer_kinds, layer_masks


def attention_mask(segments: torch.Tensor, blocks: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    return layer_masks({FULL: None}, segments, blocks, torch.zeros_like(segments), dtype=dtype)[FULL]


def seen(segments: list[int], blocks: list[int]) -> list[str]:
    """Draw a mask: one line for each query, x where it sees the key."""
    mask = attention_mask(torch.tensor([segments]), torch.tensor([blocks]), dtype=torch.float32)
    assert mask.shape == (1, 1, len(segments), len(segments))
    assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
    return ["".join("x" if value == 0 else "." for value in row) for row in mask[0, 0]]


P, N = PROMPT, NO_BLOCK


def test_a_caption_sees_the_prompt_and_its_own_past_and_no_other_caption():
    assert seen([P, P, 0, 0, 1, 1], [N] * 6) == [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xx..x.",
        "xx..xx",
    ]


def test_tokens_of_a_block_see_each_other_both_ways():
    assert seen([P, 0, 0, 1, 1], [N, 0, 0, 1, 1]) == [
        "x....",
        "xxx..",
        "xxx..",
        "x..xx",
        "x..xx",
    ]


def test_blocks_of_one_caption_see_the_blocks_before_them_and_not_those_behind():
    assert seen([P, 0, 0, 0, 0, 0], [N, 0, 0, N, 1, 1]) == [
        "x.....",
        "xxx...",
        "xxx...",
        "xxxx..",
        "xxxxxx",
        "xxxxxx",
    ]


def test_nothing_sees_padding_and_padding_sees_something():
    drawn = seen([P, 0, PADDING, PADDING], [N, 0, N, N])
    assert drawn[:2] == ["x...", "xx.."]
    assert all("x" in line for line in drawn[2:])


def test_rows_of_a_batch_have_their_own_masks():
    segments = torch.tensor([[P, 0, 0], [P, P, 0]])
    mask = attention_mask(segments, torch.full((2, 3), N), dtype=torch.float32)
    alone = [attention_mask(row[None], torch.full((1, 3), N), dtype=torch.float32) for row in segments]
    assert torch.equal(mask, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mask_is_finite_in_the_scores_own_precision(dtype):
    mask = attention_mask(torch.tensor([[P, 0]]), torch.tensor([[N, N]]), dtype=dtype)
    assert mask.dtype == dtype
    assert mask.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "create"),
    [
        ("sliding_attention", create_sliding_window_causal_mask),
        ("chunked_attention", create_chunked_causal_mask),
    ],
)
def test_layers_that_see_less_get_transformers_own_masks(kind, create):
    config = Llama4TextConfig(num_hidden_layers=2, layer_types=[kind, "full_attention"], attention_chunk_size=3)
    config.sliding_window, config._attn_implementation = 3, "eager"
    n = 8
    segments = torch.tensor([[P, P, *[0] * (n - 2)]])
    kinds = layer_kinds(config)
    assert kinds == {kind: 3, "full_attention": None}
    masks = layer_masks(kinds, segments, torch.full((1, n), N), torch.arange(n)[None], dtype=torch.float32)
    expected = create(config, torch.zeros(1, n, 4), torch.ones(1, n), None, position_ids=torch.arange(n)[None])
    assert torch.equal(masks[kind], expected)
    assert not torch.equal(masks[kind], masks["full_attention"])


def test_how_far_a_caption_sees_does_not_depend_on_what_stands_between_it_and_the_prompt():
    segments = torch.tensor([[P, P, 0, 0, 0, 1, 1, 1]])
    order = torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4]])
    for kind in ("sliding_attention", "chunked_attention"):
        mask = layer_masks({kind: 3}, segments, torch.full((1, 8), N), order, dtype=torch.float32)[kind][0, 0]
        assert torch.equal(mask[2:5][:, [0, 1, 2, 3, 4]], mask[5:8][:, [0, 1, 5, 6, 7]])


def test_layers_without_a_mask_are_an_error_that_names_their_kind():
    config = SimpleNamespace(model_type="lfm2", layer_types=["conv", "full_attention"])
    with pytest.raises(ModelError, match=r"\(lfm2\) has layers of the kind 'conv'.*kinds that it has: full_attention"):
        layer_kinds(config)
