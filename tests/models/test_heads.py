import pytest
import torch
from torch import nn

from halspan.core.errors import ModelError
from halspan.models.heads.building import build_head, check_shape
from halspan.models.heads.comparing import TokenHead
from halspan.models.heads.linear import LinearSentenceHead, LinearTokenHead
from halspan.models.heads.pooling import SentenceHead


def test_the_token_head_gives_one_logit_and_one_for_each_type():
    hallucinated, types = TokenHead(4, 3)(torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 4))
    assert hallucinated.shape == (5,)
    assert types.shape == (5, 3)


def test_a_word_that_was_not_expected_is_suspicious_before_any_training():
    head = TokenHead(4, 1)
    expectations = torch.tensor([[3.0, 1.0, 3.0, 1.0], [3.0, 1.0, 3.0, 1.0]])  # normalized: (1, -1, 1, -1)
    words = torch.tensor([[2.0, -2.0, 2.0, -2.0], [-2.0, 2.0, -2.0, 2.0]])  # of length 1 in each entry, once normalized
    expected, unexpected = head(torch.ones(2, 4), expectations, words)[0].tolist()
    assert unexpected - expected == pytest.approx(2 * 4 / 4**0.5, abs=1e-4)


def test_a_sentence_is_pooled_by_attention_over_its_own_tokens():
    head = SentenceHead(2)
    nn.init.constant_(head.attention.weight, 0.0)  # equal attention: the pooled state is the mean
    nn.init.zeros_(head.incorrect.bias)
    with torch.no_grad():
        head.incorrect.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    states = torch.tensor([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0]])  # normalized: (1, -1), (-1, 1), (1, -1)
    logits = head(states, torch.zeros(3), torch.tensor([[0, 1], [2, -1]]))
    assert logits.tolist() == pytest.approx([0.0, 1.0], abs=1e-4)


def test_attention_prefers_the_tokens_with_the_higher_score():
    head = SentenceHead(2)
    nn.init.zeros_(head.incorrect.bias)
    with torch.no_grad():
        head.attention.weight.copy_(torch.tensor([[50.0, 0.0]]))
        head.incorrect.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    logits = head(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.zeros(2), torch.tensor([[0, 1]]))
    assert logits.tolist() == pytest.approx([1.0], abs=1e-4)


def test_a_new_sentence_head_adds_the_logit_of_the_most_suspicious_token():
    head = SentenceHead(2)
    tokens = torch.tensor([[0, 1], [2, -1]])
    states = torch.randn(3, 2)
    quiet = head(states, torch.tensor([0.0, 0.0, 0.0]), tokens)
    loud = head(states, torch.tensor([-1.0, 2.5, -3.0]), tokens)
    assert (loud - quiet).tolist() == pytest.approx([2.5, -3.0], abs=1e-5)


def test_filling_up_with_absent_tokens_changes_nothing():
    head = SentenceHead(4)
    states, logits = torch.randn(3, 4), torch.randn(3)
    short = head(states, logits, torch.tensor([[0, 2]]))
    assert torch.equal(short, head(states, logits, torch.tensor([[0, 2, -1, -1]])))


def test_a_sentence_without_tokens_gets_a_finite_logit_and_gives_no_gradient():
    head = SentenceHead(4)
    states = torch.randn(2, 4, requires_grad=True)
    logits = head(states, torch.randn(2), torch.tensor([[-1, -1]]))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert states.grad is not None
    assert not states.grad.any()


def test_a_batch_without_a_single_token_is_possible():
    assert SentenceHead(4)(torch.empty(0, 4), torch.empty(0), torch.tensor([[-1]])).isfinite().all()
    assert TokenHead(4, 2)(*[torch.empty(0, 4)] * 3)[1].shape == (0, 2)


def test_linear_heads_read_the_state_alone():
    tokens, sentences = LinearTokenHead(2, 3), LinearSentenceHead(2)
    states = torch.tensor([[3.0, 1.0], [1.0, 3.0], [3.0, 1.0]])  # normalized: (1, -1), (-1, 1), (1, -1)
    with torch.no_grad():
        tokens.hallucinated.weight.copy_(torch.tensor([[1.0, 0.0]]))
        sentences.incorrect.weight.copy_(torch.tensor([[1.0, 0.0]]))
        tokens.hallucinated.bias.zero_()
        sentences.incorrect.bias.zero_()
    hallucinated, types = tokens(states, torch.randn(3, 2), torch.randn(3, 2))
    assert hallucinated.tolist() == pytest.approx([1.0, -1.0, 1.0], abs=1e-4)
    assert types.shape == (3, 3)
    logits = sentences(states, torch.randn(3), torch.tensor([[0, 1], [2, -1], [-1, -1]]))
    assert logits.tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-4)  # the mean of a sentence's own tokens


class Counting(nn.Module):
    """A head with a weight that no checkpoint would hold."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))


class CountingSpec:
    name = "counting"

    def build(self, hidden, n_types):
        return Counting()


def test_a_head_with_weights_that_would_not_be_stored_is_refused():
    with pytest.raises(ModelError, match=r"model.token_head: 'counting' has weights .* such as 'count'"):
        build_head("token_head", CountingSpec(), 4, 2)


def test_logits_of_another_shape_are_refused():
    check_shape("sentence_head", torch.zeros(3), (3,))
    with pytest.raises(ModelError, match=r"model.sentence_head: .* shape \(3,\), got \(3, 1\)"):
        check_shape("sentence_head", torch.zeros(3, 1), (3,))
