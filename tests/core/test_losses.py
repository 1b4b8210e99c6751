import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from halspan.core.captions import Caption, Sentence, Span
from halspan.core.losses import TERMS, Logits, LossWeights, Targets, Term, combine, count_terms, loss_terms
from halspan.core.targets import NO_TYPE, build_targets

LOG2 = math.log(2)
ONES = LossWeights(sentence=1, token=1, type=1, weak=1, weak_type=1, sentence_positive=1, token_positive=1)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# Five tokens: two of a localized sentence, two of a weak one, one outside. The first is hallucinated, of type 1.
TARGETS = Targets(
    token=torch.tensor([1.0, 0, 0, 0, 0]),
    token_mask=torch.tensor([True, True, False, False, False]),
    token_type=torch.tensor([1, NO_TYPE, NO_TYPE, NO_TYPE, NO_TYPE]),
    token_sentence=torch.tensor([0, 0, 1, 1, -1]),
    sentence=torch.tensor([0.75, 1.0, 0.0]),
    sentence_mask=torch.tensor([True, True, False]),
    weak=torch.tensor([False, True, False]),
    weak_types=torch.tensor([[0.0, 0, 0], [1, 0, 1], [0, 0, 0]]),
)


def make_logits(**changes: torch.Tensor) -> Logits:
    logits = Logits(
        token=torch.tensor([2.0, -1.0, 0.5, 3.0, 9.0]),
        type=torch.tensor([[0.0, 1, 2], [5, 5, 5], [7, 0, 0], [1, 2, 3], [0, 0, 0]]),
        sentence=torch.tensor([1.0, -2.0, 50.0]),
    )
    return replace(logits, **changes)


def test_the_sentence_term_is_cross_entropy_against_the_share_of_votes():
    term = loss_terms(make_logits(), TARGETS, ONES)["sentence"]
    # 0.75 of the votes against logit 1, a label of 1 against logit -2; the unknown sentence counts nowhere.
    expected = -(0.75 * log_sigmoid(1) + 0.25 * log_sigmoid(-1)) - log_sigmoid(-2)
    assert term.total.item() == pytest.approx(expected, rel=1e-6)
    assert term.count.item() == 2


def test_the_token_term_is_cross_entropy_where_the_mask_allows():
    term = loss_terms(make_logits(), TARGETS, ONES)["token"]
    assert term.total.item() == pytest.approx(-log_sigmoid(2) - log_sigmoid(1), rel=1e-6)
    assert term.count.item() == 2


def test_positive_weights_multiply_what_incorrect_sentences_and_hallucinated_tokens_count():
    terms = loss_terms(make_logits(), TARGETS, replace(ONES, sentence_positive=2, token_positive=3))
    sentence = -(2 * 0.75 * log_sigmoid(1) + 0.25 * log_sigmoid(-1)) - 2 * log_sigmoid(-2)
    assert terms["sentence"].total.item() == pytest.approx(sentence, rel=1e-6)
    assert terms["token"].total.item() == pytest.approx(-3 * log_sigmoid(2) - log_sigmoid(1), rel=1e-6)


def test_the_type_term_is_cross_entropy_on_hallucinated_tokens_with_a_type():
    term = loss_terms(make_logits(), TARGETS, ONES)["type"]
    assert term.total.item() == pytest.approx(math.log(1 + math.e + math.e**2) - 1, rel=1e-6)
    assert term.count.item() == 1


def test_the_weak_term_raises_the_strongest_token_of_the_sentence_only():
    token = torch.tensor([2.0, -1.0, 0.5, 3.0, 9.0], requires_grad=True)
    term = loss_terms(make_logits(token=token), TARGETS, ONES)["weak"]
    assert term.total.item() == pytest.approx(-log_sigmoid(3), rel=1e-6)
    assert term.count.item() == 1
    term.total.backward()
    # d/dx -log sigmoid(x) = sigmoid(x) - 1, at the token with logit 3.
    assert token.grad.tolist() == pytest.approx([0, 0, 0, 1 / (1 + math.exp(-3)) - 1, 0], rel=1e-5)


def test_of_equally_strong_tokens_the_first_is_raised():
    token = torch.zeros(5, requires_grad=True)
    loss_terms(make_logits(token=token), TARGETS, ONES)["weak"].total.backward()
    assert token.grad.tolist() == [0, 0, -0.5, 0, 0]


def test_the_weak_type_term_asks_for_any_of_the_sentence_s_types_at_its_strongest_token():
    term = loss_terms(make_logits(), TARGETS, ONES)["weak_type"]
    # Types 0 and 2 of logits 1, 2, 3.
    expected = -math.log((math.e + math.e**3) / (math.e + math.e**2 + math.e**3))
    assert term.total.item() == pytest.approx(expected, rel=1e-6)
    assert term.count.item() == 1


def test_a_weak_sentence_without_types_has_no_weak_type_term():
    terms = loss_terms(make_logits(), replace(TARGETS, weak_types=torch.zeros(3, 3)), ONES)
    assert terms["weak"].count.item() == 1
    assert terms["weak_type"].count.item() == 0
    assert terms["weak_type"].total.item() == 0


NOTHING = replace(
    TARGETS,
    token_mask=torch.zeros(5, dtype=torch.bool),
    token_type=torch.full((5,), NO_TYPE),
    sentence_mask=torch.zeros(3, dtype=torch.bool),
    weak=torch.zeros(3, dtype=torch.bool),
)
EMPTY = Targets(
    token=torch.zeros(0),
    token_mask=torch.zeros(0, dtype=torch.bool),
    token_type=torch.zeros(0, dtype=torch.long),
    token_sentence=torch.zeros(0, dtype=torch.long),
    sentence=torch.zeros(0),
    sentence_mask=torch.zeros(0, dtype=torch.bool),
    weak=torch.zeros(0, dtype=torch.bool),
    weak_types=torch.zeros(0, 3),
)


@pytest.mark.parametrize("targets", [NOTHING, EMPTY], ids=["all masked", "no tokens"])
def test_nothing_to_learn_gives_a_loss_and_gradients_of_exactly_0(targets):
    token = torch.randn(len(targets.token), requires_grad=True)
    types = torch.randn(len(targets.token), 3, requires_grad=True)
    sentence = torch.randn(len(targets.sentence), requires_grad=True)
    loss = combine(loss_terms(Logits(token=token, type=types, sentence=sentence), targets, ONES), ONES)
    assert loss.item() == 0
    loss.backward()
    assert all((leaf.grad == 0).all() for leaf in (token, types, sentence))


def test_a_taxonomy_of_no_types_leaves_the_type_terms_at_0():
    targets = replace(TARGETS, token_type=torch.full((5,), NO_TYPE), weak_types=torch.zeros(3, 0))
    terms = loss_terms(make_logits(type=torch.zeros(5, 0)), targets, ONES)
    assert terms["type"].total.item() == terms["weak_type"].total.item() == 0


def test_logits_in_half_precision_are_summed_in_float32():
    halves = {name: getattr(make_logits(), name).bfloat16() for name in ("token", "type", "sentence")}
    terms = loss_terms(make_logits(**halves), TARGETS, ONES)
    assert {term.total.dtype for term in terms.values()} == {torch.float32}


def test_a_diverged_model_gives_a_loss_that_is_not_a_number():
    terms = loss_terms(make_logits(token=torch.full((5,), torch.nan)), TARGETS, ONES)
    assert combine(terms, ONES).isnan()


def test_the_loss_is_the_weighted_sum_of_the_terms_means():
    terms = {name: Term(torch.tensor(float(6 * at)), torch.tensor(at)) for at, name in enumerate(TERMS)}
    weights = LossWeights(sentence=9, token=1, type=2, weak=0.5, weak_type=0)
    assert combine(terms, weights).item() == pytest.approx(6 * (0 + 1 + 2 + 0.5 + 0))


def test_the_losses_of_two_passes_over_global_counts_add_up_to_the_loss_of_one():
    first, second = [build_targets(each, OFFSETS, TYPES) for each in (LOCALIZED, WEAK)]
    whole = Targets.join([first, second])
    logits = Logits(token=torch.randn(8), type=torch.randn(8, 2), sentence=torch.randn(4))
    counts = count_terms(whole)
    parts = [
        combine(loss_terms(part, Targets.join([targets]), ONES), ONES, counts)
        for part, targets in [
            (Logits(token=logits.token[:4], type=logits.type[:4], sentence=logits.sentence[:2]), first),
            (Logits(token=logits.token[4:], type=logits.type[4:], sentence=logits.sentence[2:]), second),
        ]
    ]
    assert sum(parts).item() == pytest.approx(combine(loss_terms(logits, whole, ONES), ONES).item(), rel=1e-6)


TYPES = ("Attribute", "Object")
OFFSETS = np.array([(0, 1), (1, 5), (5, 6), (6, 8)])


def caption(first: Sentence, second: Sentence, *spans: Span) -> Caption:
    return Caption("c/1", "1.png", "c", "image_to_text", "A red. B", (first, second), spans)


LOCALIZED = caption(Sentence(0, 6, "incorrect"), Sentence(7, 8, "correct"), Span(2, 5, "Object"))
WEAK = caption(Sentence(0, 6, "incorrect", ("Attribute",)), Sentence(7, 8, "unknown"))


def test_the_targets_of_a_batch_count_its_sentences_through():
    joined = Targets.join([build_targets(each, OFFSETS, TYPES) for each in (LOCALIZED, WEAK)])
    assert joined.token_sentence.tolist() == [0, 0, 0, 1, 2, 2, 2, 3]
    assert joined.token.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert joined.token_type.tolist() == [NO_TYPE, 1, *[NO_TYPE] * 6]
    assert joined.token_mask.tolist() == [*[True] * 4, *[False] * 4]
    assert joined.sentence.tolist() == [1, 0, 1, 0]
    assert joined.sentence_mask.tolist() == [True, True, True, False]
    assert joined.weak.tolist() == [False, False, True, False]
    assert joined.weak_types.tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]


def test_tokens_outside_the_sentences_stay_outside_in_a_batch():
    outside = caption(Sentence(0, 1, "correct"), Sentence(7, 8, "correct"))
    joined = Targets.join([build_targets(each, OFFSETS, TYPES) for each in (LOCALIZED, outside)])
    assert joined.token_sentence.tolist() == [0, 0, 0, 1, 2, -1, -1, 3]


def test_targets_move_to_a_device():
    moved = TARGETS.to("meta")
    assert {getattr(moved, name).device.type for name in ("token", "weak_types", "sentence_mask")} == {"meta"}
    assert TARGETS.token.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_targets_can_be_pinned():
    assert TARGETS.pin_memory().token.is_pinned()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token": -1}, "greater than or equal to 0"),
        ({"token_positive": 0}, "greater than 0"),
        ({"sentence": math.inf}, "finite number"),
        ({"tokens": 1}, "[Uu]nexpected keyword argument"),
        ({"weak": "much"}, "valid number"),
    ],
)
def test_impossible_loss_weights_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        LossWeights(**values)
