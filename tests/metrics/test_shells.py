import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from random_predictions import random_predictions
from torchmetrics import Metric

from halspan.core.errors import DataError
from halspan.metrics.judged import judged_sentences
from halspan.metrics.span import count_characters, count_tokens
from halspan.metrics.summary import summarize
from halspan.metrics.torchmetrics import SentenceAuroc, SpanF1, TokenF1

GENERATORS = ("a", "b", "c")


def sentences(predictions: list) -> tuple[torch.Tensor, ...]:
    judged = judged_sentences(predictions)
    index = [GENERATORS.index(name) for name in judged.generator]
    return torch.tensor(judged.p_incorrect), torch.tensor(judged.incorrect), torch.tensor(index)


def tokens(seed: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.rand(3, 4, 50, generator=torch.Generator().manual_seed(seed)) < 0.5)


def update_all(metrics: dict[str, Metric], seed: int) -> None:
    predictions = random_predictions(seed, n_captions=30)
    metrics["sentence"].update(*sentences(predictions))
    metrics["span"].update(predictions)
    metrics["token"].update(*tokens(seed))


def make() -> dict[str, Metric]:
    return {"sentence": SentenceAuroc(GENERATORS), "span": SpanF1(), "token": TokenF1()}


def test_auroc_over_batches_is_that_of_the_summary():
    metric = SentenceAuroc(GENERATORS)
    batches = [random_predictions(seed, n_captions=30) for seed in (0, 1)]
    for batch in batches:
        metric.update(*sentences(batch))
    figures, _ = summarize(batches[0] + batches[1])
    assert metric.compute().item() == pytest.approx(figures["sentence"]["auroc"]["macro"])


def test_auroc_averages_the_generators_that_have_both_classes():
    metric = SentenceAuroc(["a", "b", "none"])
    p, incorrect = torch.tensor([0.75, 0.25, 0.5, 0.5]), torch.tensor([True, False, True, True])
    metric.update(p, incorrect, torch.tensor([0, 0, 0, 1]))
    assert metric.compute() == 1


def test_scores_may_come_in_half_precision_and_with_a_gradient():
    metric = SentenceAuroc(["a"])
    p = torch.tensor([0.75, 0.25], dtype=torch.bfloat16, requires_grad=True)
    metric.update(p, torch.tensor([True, False]), torch.tensor([0, 0]))
    assert metric.compute() == 1


def test_scores_that_are_not_numbers_are_an_error():
    metric = SentenceAuroc(["a"])
    metric.update(torch.tensor([math.nan, 0.25]), torch.tensor([True, False]), torch.tensor([0, 0]))
    with pytest.raises(DataError, match="not finite"):
        metric.compute()


def test_a_sentence_of_no_known_generator_is_an_error():
    metric = SentenceAuroc(["a"])
    metric.update(torch.tensor([0.75, 0.25]), torch.tensor([True, False]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="generator_index: 1 for 1 generators"):
        metric.compute()


def test_f1_over_batches_is_that_of_all_tokens_and_of_all_characters():
    metrics = make()
    for seed in (0, 1):
        update_all(metrics, seed)
    gold, predicted, known = (torch.cat(pair).flatten().numpy() for pair in zip(tokens(0), tokens(1), strict=True))
    expected = count_tokens(gold=gold, predicted=predicted, known=known).f1
    assert metrics["token"].compute().item() == pytest.approx(expected)
    both = random_predictions(0, n_captions=30) + random_predictions(1, n_captions=30)
    expected = count_characters((each.caption, each.spans) for each in both).f1
    assert metrics["span"].compute().item() == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
@pytest.mark.parametrize("name", ["sentence", "span", "token"])
def test_an_undefined_figure_is_not_a_number_and_a_reset_makes_it_so(name):
    metrics = make()
    assert metrics[name].compute().isnan()
    update_all(metrics, 0)
    assert not metrics[name].compute().isnan()
    metrics[name].reset()
    assert metrics[name].compute().isnan()


# by process, the batches that it sees
SPREADS = {"halves": ((0, 1), (2, 3)), "one has nothing": ((0, 1, 2, 3), ())}


def compute_in_process(rank: int, folder: str) -> None:
    """Compute the figures of all processes together, for each way to spread the batches, and leave them in a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    figures = {}
    for name, spread in SPREADS.items():
        metrics = make()
        for seed in spread[rank]:
            update_all(metrics, seed)
        figures[name] = {each: metric.compute() for each, metric in metrics.items()}
    torch.save(figures, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def figures_of_two_processes(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(compute_in_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("spread", SPREADS)
def test_two_processes_give_the_same_as_one(figures_of_two_processes, spread):
    alone = make()
    for seed in range(4):
        update_all(alone, seed)
    expected = {name: metric.compute().item() for name, metric in alone.items()}
    for figures in figures_of_two_processes:
        found = {name: figure.item() for name, figure in figures[spread].items()}
        assert found == pytest.approx(expected, abs=1e-7)
