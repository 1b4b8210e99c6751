import pytest
import torch

from halspan.models.context import NO_BLOCK, PADDING, PROMPT, attention_mask


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
