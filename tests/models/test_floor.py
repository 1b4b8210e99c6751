from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import Batch, EncodedRow
from halspan.models.inputs.context import PROMPT, layer_kinds, layer_masks
from halspan.models.model_spec import CONTEXTS, LoraSpec
from halspan.models.plan.floor import CaptionSize, Operations, RowSize, count_floor, full_row, measure_row
from halspan.models.plan.skeleton import Skeleton, build_skeleton
from halspan.models.plan.visible_pairs import count_causal, count_later
from halspan.testing.tiny_detectors import CAPTIONS, build, spec_of
from halspan.testing.tiny_models import TAXONOMY, make_image

# paligemma's image processor, with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ADAPTED = [["language"], [r".*language_model.*layers\.1\.self_attn\.[qv]_proj"], ["vision"], ["language", "projector"]]
WIDTH = 64  # 4 heads of 16 numbers in the text decoder of every tiny model
PAIR = 4 * WIDTH  # operations of one layer for a query and a key


def prepare(name: str, n_captions: int = 1, **changes) -> tuple[Skeleton, SpanDetector, Batch, EncodedRow]:
    detector, encoder = build(name, **changes)
    row = encoder.encode(make_image(0), CAPTIONS[:n_captions], targets=False)
    return (
        build_skeleton(spec_of(name, **changes), n_types=len(TAXONOMY)),
        detector,
        encoder.collate([row]),
        row,
    )


def floor_of(skeleton: Skeleton, row: EncodedRow, *, is_training: bool = False) -> Operations:
    return count_floor(skeleton, [measure_row(skeleton, row)], is_training=is_training)


def seen_pairs(skeleton: Skeleton, detector: SpanDetector, batch: Batch) -> list[int]:
    """Count, for each layer, the pairs that the real mask of a batch without padding allows."""
    text = skeleton.config.get_text_config()
    blocks = torch.where(
        batch.segments == PROMPT, detector.family.prompt_blocks(batch.inputs, batch.segments), batch.blocks
    )
    order = batch.inputs["position_ids"]
    masks = layer_masks(layer_kinds(text), batch.segments, blocks, order, dtype=torch.float32)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    return [int((masks[kind] == 0).sum()) for kind in kinds]


def count(work) -> tuple[int, object]:
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


@pytest.mark.parametrize("targets", ADAPTED, ids=["language", "q and v of layer 1", "vision", "language and projector"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl3", "idefics3"])
def test_a_pass_of_one_caption_takes_the_floor_and_the_pairs_that_are_masked(name, targets):
    if targets[-1] == "projector" and name == "gemma3":
        pytest.skip("its projector is not a linear layer")
    if "layers" in targets[0]:
        targets = [targets[0].replace("language_model", "text_model" if name == "idefics3" else "language_model")]
    lora = LoraSpec(r=4, alpha=8, dropout=0.0, targets=targets)
    skeleton, detector, batch, row = prepare(name, lora=lora)
    masked = [batch.size**2 - seen for seen in seen_pairs(skeleton, detector, batch)]  # eager attention computes them
    scoring, training = floor_of(skeleton, row), floor_of(skeleton, row, is_training=True)
    forward, states = count(lambda: detector.states(batch))
    backward, _ = count(lambda: states.sum().backward())
    assert forward - (scoring.total - scoring.heads) == PAIR * sum(masked)
    # of the four products of its backward pass, layer 1 alone needs those of queries, probabilities and values
    expected = 3 * 2 * WIDTH * masked[1] if "layers" in targets[0] else 2 * PAIR * sum(masked)
    assert backward - (training.backward - 2 * training.heads) == expected


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3", "paligemma", "llama4"])
def test_attention_counts_the_pairs_that_the_mask_of_a_row_allows(name, context):
    skeleton, detector, batch, row = prepare(name, n_captions=3, context=context)
    assert len(batch.segments) == 1
    floor = floor_of(skeleton, row)
    assert floor.attention == PAIR * sum(seen_pairs(skeleton, detector, batch))


def test_a_row_of_two_captions_by_hand():
    skeleton = build_skeleton(spec_of("llava"), n_types=2)
    row = RowSize(
        tiles=(16,), image_tokens=16, prompt=21, captions=(CaptionSize(10, (tuple(range(10)),)), CaptionSize(5))
    )
    # tower: patches of 3 x 8 x 8 numbers to 64; 2 layers of four 64 x 64 and two 64 x 96 matrices, and 16^2 pairs
    tower = 16 * 2 * (192 * 64) + 2 * (16 * 2 * (4 * 64 * 64 + 2 * 64 * 96) + 256 * 4 * 64)
    projector = 16 * 2 * (2 * 64 * 64)
    # decoder: q and o 64 x 64, k and v 64 x 32, three 64 x 96; adapters of rank 4 on all seven
    base = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    adapters = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96))
    # prompt: 21 * 22 / 2 pairs; a caption of n tokens: 21 n + n (n + 1) / 2
    pairs = 231 + (210 + 55) + (105 + 15)
    # token head: 2 x 64 numbers to 1 and to 2 types; sentence head: 64 to 1 and 65 to 1, for the one sentence
    heads = 15 * 2 * 128 * 3 + 2 * (64 + 65)
    assert count_floor(skeleton, [row], is_training=False) == Operations(
        images=tower + projector, matrices=36 * 2 * (base + adapters), attention=2 * PAIR * pairs, heads=heads
    )
    # layer 1: all inputs; layer 0: q, k and v read embeddings, which need no gradient
    of_base = base + (base - 2 * (64 * 64 + 2 * 64 * 32))
    of_adapters = 2 * 2 * adapters - 2 * 4 * 3 * 64
    backward = 36 * (of_base + of_adapters) + 2 * 2 * PAIR * pairs + 2 * heads
    assert count_floor(skeleton, [row], is_training=True).backward == backward


def test_kept_features_take_no_operations_of_the_image():
    skeleton = build_skeleton(spec_of("llava"), n_types=2)
    row = RowSize(tiles=(16,), image_tokens=16, prompt=21, captions=(CaptionSize(10),))
    whole, kept = (count_floor(skeleton, [of], is_training=True) for of in (row, replace(row, tiles=())))
    assert whole.images > 0
    assert kept == replace(whole, images=0)


def test_rows_add_up_and_a_shared_prompt_is_counted_once():
    skeleton = build_skeleton(spec_of("llava"), n_types=2)
    one = RowSize(tiles=(16,), image_tokens=16, prompt=21, captions=(CaptionSize(10),))
    both = replace(one, captions=(CaptionSize(10), CaptionSize(10)))
    apart, together = (count_floor(skeleton, rows, is_training=False) for rows in ([one, one], [both]))
    prompt = count_floor(skeleton, [replace(one, captions=())], is_training=False)
    assert apart.total == together.total + prompt.total


def test_the_layers_above_read_layer_are_not_counted():
    whole, lower = (build_skeleton(spec_of("llava", read_layer=n), n_types=2) for n in (None, 1))
    row = RowSize(tiles=(), image_tokens=0, prompt=7, captions=())
    assert count_floor(whole, [row], is_training=False).total == 2 * count_floor(lower, [row], is_training=False).total


def test_a_full_row_has_one_tile_and_as_many_tokens_as_are_packed():
    assert full_row(build_skeleton(spec_of("llava", pack_tokens=300), n_types=2)) == RowSize(
        tiles=(16,), image_tokens=16, prompt=300, captions=()
    )
    assert full_row(build_skeleton(spec_of("qwen3_vl", pack_tokens=300), n_types=2)).tiles == ()


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention", "chunked_attention"])
@pytest.mark.parametrize("reach", [None, 3, 4, 50])
def test_pairs_are_those_that_a_loop_counts(kind, reach):
    def sees(query: int, key: int) -> bool:
        if reach is None or kind == "full_attention":
            return True
        return query // reach == key // reach if kind == "chunked_attention" else query - key < reach

    reach = None if kind == "full_attention" else reach
    causal = sum(sees(query, key) for query in range(11) for key in range(query + 1))
    later = sum(sees(query, key) for query in range(5, 16) for key in range(query + 1, 16))
    assert count_causal(11, kind, reach) == causal
    assert count_later(range(5, 16), kind, reach) == later


def test_a_token_of_llava_7b_takes_two_operations_for_each_weight_of_the_decoder():
    skeleton = build_skeleton(
        spec_of("llava", backbone="llava-hf/llava-1.5-7b-hf", dtype="bfloat16", lora=None), n_types=2
    )
    row = RowSize(tiles=(), image_tokens=0, prompt=1, captions=())
    # 32 layers of four 4096 x 4096 matrices and three 4096 x 11008 (Touvron et al. 2023, arXiv 2302.13971, table 2)
    assert count_floor(skeleton, [row], is_training=False) == Operations(
        matrices=2 * 32 * (4 * 4096**2 + 3 * 4096 * 11008), attention=32 * 4 * 4096
    )
