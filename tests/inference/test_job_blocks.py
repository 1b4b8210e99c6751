"""Scores of a job do not depend, to the last bit, on how many processes share it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_llama4 import tiny_spec

from halspan.core.errors import ModelError
from halspan.data.readers.jsonl import JsonLines
from halspan.evaluation import jobs as jobs_module
from halspan.evaluation.jobs import Job, join_blocks, score_blocks, score_jobs
from halspan.inference.scorer import Scorer
from halspan.models.detector import build_detector

TYPES = ("Attribute", "Object")
HOW = {"captions_per_row": 2, "batch_tokens": 600}


@pytest.fixture(scope="module")
def scorer():
    spec = tiny_spec()
    torch.manual_seed(0)
    return Scorer(*build_detector(spec, TYPES), spec)


@pytest.fixture(scope="module")
def jobs(corpus):
    whole = JsonLines(path=str(corpus)).load().relocated(None)
    return {
        "many": Job(corpus=whole, captions=whole.captions[:11]),
        "one": Job(corpus=whole, captions=whole.captions[11:12], blank=True),
        "several": Job(corpus=whole, captions=whole.captions[12:17]),
    }


def shared(scorer, jobs, count):
    return [score_blocks(scorer, jobs, **HOW, rank=rank, count=count) for rank in range(count)]


def bits(scored):
    """Return everything a job was scored to, as bytes."""
    return {
        key: [
            (
                each.caption.id,
                each.token_logit.tobytes(),
                each.p_type.tobytes(),
                each.offsets.tobytes(),
                np.array(each.sentence_logit, dtype=np.float64).tobytes(),
            )
            for each in scores
        ]
        for key, scores in scored.scores.items()
    }


@pytest.mark.parametrize("count", [2, 3, 25])
def test_any_number_of_processes_gives_the_bits_of_one(scorer, jobs, monkeypatch, count):
    monkeypatch.setattr(jobs_module, "BLOCK_ROWS", 2)
    alone = score_jobs(scorer, jobs, name="x", taxonomy=TYPES, **HOW)
    shares = shared(scorer, jobs, count)
    sizes = [sum(len(said) for said, _ in share.values()) for share in shares]
    assert sum(sizes) == 17
    assert len(set(sizes)) > 1
    assert (0 in sizes) == (count == 25)
    joined = join_blocks(shares[::-1], jobs, scorer=scorer, name="x", taxonomy=TYPES)
    assert bits(joined) == bits(alone)
    assert joined.cost == alone.cost
    assert [each.caption for each in alone.scores["many"]] == list(jobs["many"].captions)


def test_a_pass_holds_rows_of_one_block_alone(scorer, jobs, monkeypatch):
    """Other blocks mean other passes: were a pass to reach over the end of a block, its bits would depend on shares."""
    costs = {}
    for size in (1, 64):
        monkeypatch.setattr(jobs_module, "BLOCK_ROWS", size)
        passes = []
        score_rows = scorer.score_rows

        def count(rows, *, on_pass, **how):
            return score_rows(rows, on_pass=lambda cost: (passes.append(cost), on_pass(cost)), **how)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(scorer, "score_rows", count)
            shared(scorer, {"many": jobs["many"]}, 1)
        costs[size] = len(passes)
    assert costs[1] > costs[64]


def test_a_share_that_is_missing_is_an_error(scorer, jobs, monkeypatch):
    monkeypatch.setattr(jobs_module, "BLOCK_ROWS", 2)
    first, _ = shared(scorer, jobs, 2)
    with pytest.raises(ModelError, match=r"^many: \d+ of 11 captions were scored; the processes do not have the same"):
        join_blocks([first], jobs, scorer=scorer, name="x", taxonomy=TYPES)


def test_a_job_without_captions_is_scored_to_nothing(scorer, jobs):
    empty = {"none": replace(jobs["one"], captions=())}
    assert score_jobs(scorer, empty, name="x", taxonomy=TYPES, **HOW).scores == {"none": []}
