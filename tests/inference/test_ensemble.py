from dataclasses import replace

import numpy as np
import pytest

from halspan.core.captions import Caption, Sentence
from halspan.core.errors import DataError
from halspan.evaluation.ensemble import Member, average
from halspan.inference.scores import CaptionScores
from halspan.inference.tuning import Tuned, logits_of, predict, sigmoid

TEXT = "A red dog."
WORDS = np.array([[0, 1], [1, 5], [5, 9], [9, 10]])
PIECES = np.array([[0, 1], [2, 4], [4, 5], [6, 9], [9, 10]])  # "A", "re", "d", "dog", "."; no spaces


def scores(offsets, p_token, *, p=0.5, p_type=None, name="c", unscored=None):
    caption = Caption(name, "a.png", "g", "image_to_text", TEXT, (Sentence(0, 10, "incorrect"),))
    return CaptionScores(
        caption=caption,
        offsets=offsets,
        token_logit=logits_of(np.array(p_token)),
        p_type=np.full((len(offsets), 1), 1.0) if p_type is None else np.array(p_type),
        sentence_logit=(None if unscored else float(logits_of(p)),),
        unscored=(unscored,),
    )


def member(*items, name="m", tuned=None, taxonomy=("Object",)):
    return Member(name=name, scores=items, tuned=tuned or Tuned(), taxonomy=taxonomy)


def characters(item):
    p = np.zeros(len(TEXT))
    for (start, end), value in zip(item.offsets, sigmoid(item.token_logit), strict=True):
        p[start:end] = value
    return p


def test_sentences_have_the_mean_of_the_calibrated_probabilities():
    # the second one's logits are halved: ln 9 becomes ln 3, that is 0.75
    members = [
        member(scores(WORDS, [0] * 4, p=0.25)),
        member(scores(WORDS, [0] * 4, p=0.9), tuned=Tuned(temperature=2)),
    ]
    (item,) = average(members, ("Object",))
    assert sigmoid(item.sentence_logit[0]) == pytest.approx((0.25 + 0.75) / 2)


def test_sentences_whose_probability_rounds_to_0_or_1_keep_their_order():
    def item(logit):
        return replace(scores(WORDS, [0] * 4), sentence_logit=(logit,))

    logits = [-90.0, -60.0, -3.0, 3.0, 40.0, 60.0, 90.0]
    averaged = [
        one.sentence_logit[0]
        for logit in logits
        for one in average([member(item(logit)), member(item(logit))], ("Object",))
    ]
    assert averaged == pytest.approx(logits)
    # of 1 - 1e-9 and 1 - 1e-18, half of the first is what is left
    (mixed,) = average([member(item(9 * np.log(10))), member(item(18 * np.log(10)))], ("Object",))
    assert mixed.sentence_logit[0] == pytest.approx(9 * np.log(10) + np.log(2), abs=1e-6)


def test_characters_have_the_mean_of_their_tokens_whatever_the_tokenizers():
    members = [member(scores(WORDS, [0, 0.8, 0.2, 0])), member(scores(PIECES, [0, 0.4, 0.6, 0.2, 0]))]
    (item,) = average(members, ("Object",))
    # the space before "red" is in a token of the first one only
    expected = [0, 0.4, 0.6, 0.6, 0.7, 0.1, 0.2, 0.2, 0.2, 0]
    np.testing.assert_allclose(characters(item), expected, atol=1e-12)


def test_one_detector_alone_stays_what_it_is():
    (item,) = average([member(scores(PIECES, [0, 0.4, 0.6, 0.2, 0], p=0.3))], ("Object",))
    np.testing.assert_allclose(characters(item), [0, 0, 0.4, 0.4, 0.6, 0, 0.2, 0.2, 0.2, 0], atol=1e-12)
    assert sigmoid(item.sentence_logit[0]) == pytest.approx(0.3)


def test_several_tokens_of_one_character_count_by_the_highest():
    bytes_of_a_word = np.array([[0, 1], [2, 5], [2, 5], [6, 9], [9, 10]])
    (item,) = average([member(scores(bytes_of_a_word, [0, 0.1, 0.9, 0, 0]))], ("Object",))
    np.testing.assert_allclose(characters(item)[2:5], 0.9)


def test_types_are_weighed_by_how_sure_each_is_and_found_by_name():
    first = member(scores(WORDS, [0, 0.9, 0, 0], p_type=[[1.0]] * 4), taxonomy=("Object",))
    second = member(scores(WORDS, [0, 0.3, 0, 0], p_type=[[0.8, 0.2]] * 4), taxonomy=("Number", "Object"))
    (item,) = average([first, second], ("Object", "Number"))
    # of "red": 0.9 * 1 + 0.3 * 0.2 for Object, 0.3 * 0.8 for Number, of 1.2 altogether
    np.testing.assert_allclose(item.p_type[1], [0.96 / 1.2, 0.24 / 1.2], rtol=1e-6)
    (prediction,) = predict([item], Tuned(), ("Object", "Number"))
    assert [(span.start, span.end, span.type) for span in prediction.spans] == [(2, 5, "Object")]
    assert prediction.spans[0].score == pytest.approx(0.6)


def test_what_one_could_not_score_stays_unscored_and_says_who_could_not():
    members = [member(scores(WORDS, [0] * 4)), member(scores(WORDS, [0] * 4, unscored="too long"), name="short")]
    (item,) = average(members, ("Object",))
    assert item.sentence_logit == (None,)
    assert item.unscored == ("short: too long",)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_member_without_any_token_of_a_caption_gives_its_characters_nothing(is_alone):
    nothing = member(scores(np.zeros((0, 2), int), [], unscored="no token"))
    other = nothing if is_alone else member(scores(WORDS, [0, 0.8, 0.2, 0]))
    (item,) = average([other, nothing], ("Object",))
    expected = [0] * 10 if is_alone else [0, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0]
    np.testing.assert_allclose(characters(item), expected, atol=1e-12)
    assert item.unscored == ("m: no token",)
    assert not np.isnan(item.p_type).any()


def test_captions_come_in_the_order_of_the_first_and_must_be_the_same():
    first = member(scores(WORDS, [0] * 4, name="a"), scores(WORDS, [0] * 4, name="b"))
    second = member(scores(WORDS, [0] * 4, name="b"), scores(WORDS, [0] * 4, name="a"))
    assert [item.caption.id for item in average([first, second], ("Object",))] == ["a", "b"]
    with pytest.raises(DataError, match="other has not scored caption 'b', which m has"):
        list(average([first, member(scores(WORDS, [0] * 4, name="a"), name="other")], ("Object",)))
