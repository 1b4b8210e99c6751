"""A detector that several threads use at once, and copies of one: each says what it says alone."""

import copy
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from halspan.models.detector import SpanDetector, build_detector
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.model_spec import LoraSpec, ModelSpec
from halspan.testing.tiny_families import PROMPTS, save_tiny
from halspan.testing.tiny_models import TAXONOMY, MakeSpec, make_caption, make_image, spec_maker

N_THREADS = 8
CAPTIONS = tuple(make_caption(f"The sign says <|patch|>{'. A red horse' * n}.") for n in range(N_THREADS))
EXPERTS = LoraSpec(r=4, alpha=8, dropout=0.0, rslora=True, targets=["language", "experts"])


def build(spec: ModelSpec) -> tuple[SpanDetector, RowEncoder]:
    torch.manual_seed(0)
    detector, encoder = build_detector(spec, TAXONOMY)
    for name, parameter in detector.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return detector.eval(), encoder


def judge(detector: SpanDetector, encoder: RowEncoder, number: int, *, autocast: bool = False) -> Tensor:
    batch = encoder.collate([encoder.encode(make_image(number), CAPTIONS[number : number + 1], targets=False)])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = detector(batch)
    return torch.cat([logits.token, logits.sentence])


@pytest.fixture
def often() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def pause_around(detector: SpanDetector, *paths: str) -> None:
    """Let other threads run before and after a module does."""
    model = detector.base_model
    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_pre_hook(lambda *_: time.sleep(0.003))
        module.register_forward_hook(lambda *_: time.sleep(0.003))


def run_together(work: Callable[[int], Any]) -> list[Any]:
    """Do a piece of work in each thread, all at once."""
    start = Barrier(N_THREADS)

    def begin(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(begin, range(N_THREADS)))


def assert_alone_and_together_agree(detector: SpanDetector, encoder: RowEncoder, **options: bool) -> None:
    alone = [judge(detector, encoder, number, **options) for number in range(N_THREADS)]
    together = run_together(lambda number: judge(detector, encoder, number, **options))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> MakeSpec:
    """Return a maker of specs of a family whose layers have masks of two kinds."""
    folder = tmp_path_factory.mktemp("gemma3")
    save_tiny("gemma3", folder)
    return spec_maker(str(folder), PROMPTS["gemma3"])


def test_threads_get_the_scores_of_their_own_captions(gemma3: MakeSpec, often: None):
    detector, encoder = build(gemma3(max_tokens=512))
    pause_around(detector, "", "model.language_model")
    assert_alone_and_together_agree(detector, encoder)


@pytest.mark.parametrize("quantize", [None, "nf4"])
def test_threads_share_experts_that_are_adapted_or_packed(make_llama4_spec: MakeSpec, often: None, quantize):
    detector, encoder = build(make_llama4_spec(lora=EXPERTS, quantize=quantize))
    pause_around(detector, "language_model.model")
    assert_alone_and_together_agree(detector, encoder)


def test_threads_with_autocast_and_without_do_not_change_each_others_precision(make_llava_spec: MakeSpec, often: None):
    detector, encoder = build(make_llava_spec(dtype="bfloat16"))
    pause_around(detector, "model.language_model.layers.0.self_attn.q_proj")

    def work(number: int) -> Tensor:
        return judge(detector, encoder, 1, autocast=number % 2 == 1)

    alone = [work(number) for number in range(2)]
    for number, together in enumerate(run_together(work)):
        torch.testing.assert_close(together, alone[number % 2], rtol=0, atol=1e-6)


def test_threads_get_the_tokens_of_their_own_texts(make_llama4_spec: MakeSpec, often: None):
    _, encoder = build(make_llama4_spec(lora=None))
    tokenizer = encoder.processor.tokenizer

    caption = make_caption(encoder.prompt)

    def tokenize(number: int) -> list[int]:
        is_prompt = number % 2
        return list(tokenizer(encoder.prompt)["input_ids"] if is_prompt else encoder._tokenize(caption)[0])

    alone = [tokenize(number) for number in range(2)]
    assert len(alone[0]) > len(alone[1])  # a caption's placeholders are text
    for number, together in enumerate(run_together(lambda number: [tokenize(number) for _ in range(60)])):
        assert all(ids == alone[number % 2] for ids in together)


@pytest.mark.parametrize("component", ["vision_model", "multi_modal_projector", "language_model"])
def test_a_copy_runs_its_own_weights(make_llama4_spec: MakeSpec, component):
    detector, encoder = build(make_llama4_spec(lora=EXPERTS))
    before = judge(detector, encoder, 1)
    twin = copy.deepcopy(detector)
    torch.testing.assert_close(judge(twin, encoder, 1), before, rtol=0, atol=0)
    for parameter in twin.base_model.get_submodule(component).parameters():
        parameter.data.mul_(1.5)
    assert (judge(twin, encoder, 1) - before).abs().max() > 1e-3
    torch.testing.assert_close(judge(detector, encoder, 1), before, rtol=0, atol=0)


@pytest.mark.parametrize("repeat", [copy.deepcopy, lambda detector: pickle.loads(pickle.dumps(detector))])
def test_a_copy_does_not_need_what_it_was_made_of(make_llama4_spec: MakeSpec, repeat):
    detector, encoder = build(make_llama4_spec(lora=EXPERTS))
    before = judge(detector, encoder, 1)
    twin = repeat(detector)
    for parameter in detector.parameters():
        parameter.data.fill_(float("nan"))
    torch.testing.assert_close(judge(twin, encoder, 1), before, rtol=0, atol=0)


def test_a_copy_in_4_bits_does_not_need_what_it_was_made_of(make_llama4_spec: MakeSpec):
    detector, encoder = build(make_llama4_spec(lora=EXPERTS, quantize="nf4"))
    before = judge(detector, encoder, 1)
    twin = copy.deepcopy(detector)
    for parameter in detector.parameters():
        parameter.data.fill_(float("nan") if parameter.is_floating_point() else 0)
    torch.testing.assert_close(judge(twin, encoder, 1), before, rtol=0, atol=0)
