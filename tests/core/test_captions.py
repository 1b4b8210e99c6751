import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halspan.core.captions import Caption, PredictedSpan, Prediction, Sentence, SentenceScore, Span, Votes
from halspan.core.errors import DataError

RECORD = {
    "id": "gpt4o/000000000139",
    "image": "images/139.jpg",
    "generator": "gpt4o",
    "direction": "image_to_text",
    "text": "A man rides a horse. He wears a hat.",
    "sentences": [
        {
            "start": 0,
            "end": 20,
            "label": "incorrect",
            "types": ["Object"],
            "votes": {"correct": 1, "incorrect": 2, "unknown": 0},
        },
        {"start": 21, "end": 36, "label": "correct"},
    ],
    "spans": [{"start": 14, "end": 19, "type": "Object"}],
}
CAPTION = Caption(
    id="gpt4o/000000000139",
    image="images/139.jpg",
    generator="gpt4o",
    direction="image_to_text",
    text="A man rides a horse. He wears a hat.",
    sentences=(Sentence(0, 20, "incorrect", ("Object",), Votes(1, 2, 0)), Sentence(21, 36, "correct")),
    spans=(Span(14, 19, "Object"),),
)
MISSING = object()


def changed(*path: str | int, to: object) -> dict:
    """Copy the record with one value exchanged, or taken out."""
    record = copy.deepcopy(RECORD)
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    if to is MISSING:
        del holder[path[-1]]
    else:
        holder[path[-1]] = to
    return record


def test_the_record_of_the_design_reads_as_its_caption():
    assert Caption.from_record(RECORD) == CAPTION


def test_a_caption_writes_the_record_it_was_read_from():
    assert CAPTION.to_record() == RECORD


def test_a_caption_is_frozen():
    with pytest.raises(AttributeError):
        CAPTION.text = "Another text."


def test_a_text_without_sentences_is_split_into_unlabeled_ones():
    for record in (changed("sentences", to=MISSING), changed("sentences", to=None)):
        assert Caption.from_record(record).sentences == (Sentence(0, 20), Sentence(21, 36))


def test_spans_may_be_absent_overlap_and_come_in_any_order():
    assert Caption.from_record(changed("spans", to=MISSING)).spans == ()
    spans = [{"start": 14, "end": 19}, {"start": 2, "end": 19, "type": None}, {"start": 14, "end": 19}]
    assert Caption.from_record(changed("spans", to=spans)).spans == (Span(14, 19), Span(2, 19), Span(14, 19))


def test_the_keys_of_a_prediction_are_accepted_in_a_caption_and_ignored():
    record = changed("sentences", 0, "p_incorrect", to=0.75)
    record["sentences"][1] |= {"p_incorrect": None, "unscored": "too long"}
    record["predicted"] = [{"start": 0, "end": 1, "type": "Object", "score": 0.5}]
    assert Caption.from_record(record) == CAPTION


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "record: [1] is a list, not an object; write it as {...} with its keys"),
        (
            changed("generator", to=MISSING),
            "generator: missing; a caption needs id, image, generator, direction, text",
        ),
        (
            changed("caption", to="A man."),
            "caption: unknown key; the keys of a caption are id, image, generator, direction, text, sentences, spans, "
            "predicted, threshold",
        ),
        (changed("id", to=139), "id: 139 is an integer, not text; write it as a string"),
        (changed("id", to=" "), "id: ' ' is empty; give some text"),
        (changed("image", to=""), "image: '' is empty; give some text"),
        (changed("image", to=None), "image: null is nothing, not text; write it as a string"),
        (changed("text", to=["A man."]), "text: ['A man.'] is a list, not text; write it as a string"),
        (changed("text", to=""), "text: '' is empty; give some text"),
        (
            changed("text", to="A man \ud83d rides a horse. He wears a hat."),
            "text: character 6 is '\\ud83d', one half of a surrogate pair, which no tokenizer and no UTF-8 file can "
            "hold; repair the text's encoding",
        ),
        (
            changed("direction", to="text2image"),
            "direction: 'text2image' is not possible; one of image_to_text, text_to_image",
        ),
        (
            changed("sentences", to=[]),
            "sentences: there are none to judge; leave the key out to have the text split",
        ),
        (
            changed("sentences", to={"start": 0, "end": 20}),
            "sentences: {'end': 20, 'start': 0} is an object, not a list; put it in [ ]",
        ),
        (
            changed("sentences", 1, to=[21, 36]),
            "sentences[1]: [21, 36] is a list, not an object; write it as {...} with its keys",
        ),
        (changed("sentences", 1, "end", to=MISSING), "sentences[1].end: missing; a sentence needs start, end"),
        (
            changed("sentences", 0, "lable", to="correct"),
            "sentences[0].lable: unknown key; did you mean label? the keys of a sentence are start, end, label, types, "
            "votes, p_incorrect, unscored, logit",
        ),
        (
            changed("sentences", 0, "label", to="Incorrect"),
            "sentences[0].label: 'Incorrect' is not possible; did you mean incorrect? one of correct, "
            "incorrect, unknown",
        ),
        (
            changed("sentences", 0, "types", to="Object"),
            "sentences[0].types: 'Object' is a string, not a list; put it in [ ]",
        ),
        (changed("sentences", 0, "types", to=["Object", ""]), "sentences[0].types[1]: '' is empty; give some text"),
        (
            changed("sentences", 0, "votes", to=[1, 2]),
            "sentences[0].votes: [1, 2] is a list, not an object; write it as {...} with its keys",
        ),
        (
            changed("sentences", 0, "votes", "incorrect", to=-1),
            "sentences[0].votes.incorrect: -1 is negative; votes are counts, 0 or more",
        ),
        (
            changed("sentences", 0, "votes", "correct", to=1.0),
            "sentences[0].votes.correct: 1.0 is a float, not a whole number; write it as an integer",
        ),
        (
            changed("sentences", 0, "votes", "correct", to=MISSING),
            "sentences[0].votes.correct: missing; an object of votes needs correct, incorrect",
        ),
        (
            changed("sentences", 1, "start", to=19),
            "sentences[1].start: 19 is inside sentences[0], which ends at 20; sentences must not overlap",
        ),
        (
            changed("sentences", to=[{"start": 21, "end": 36}, {"start": 0, "end": 20}]),
            "sentences[1].start: 0 comes before sentences[0] at 21; order the sentences by their start",
        ),
        (
            changed("sentences", 1, "end", to=37),
            "sentences[1].end: 37 is beyond the text's 36 characters; count characters (not bytes) of this "
            "caption's own text",
        ),
        (
            changed("spans", 0, "end", to=40),
            "spans[0].end: 40 is beyond the text's 36 characters; count characters (not bytes) of this caption's "
            "own text",
        ),
        (changed("spans", 0, "start", to=20), "spans[0].start: 20 is after end 19; swap the two"),
        (
            changed("spans", 0, "start", to=19),
            "spans[0].end: 19 equals start, which leaves no character; ends are exclusive: add 1, or drop it",
        ),
        (changed("spans", 0, "start", to=-1), "spans[0].start: -1 is before the text; count characters from 0"),
        (
            changed("spans", 0, "start", to=14.0),
            "spans[0].start: 14.0 is a float, not a whole number; write it as an integer",
        ),
        (
            changed("spans", 0, "start", to=True),
            "spans[0].start: True is a boolean, not a whole number; write it as an integer",
        ),
        (
            changed("spans", 0, "end", to="19"),
            "spans[0].end: '19' is a string, not a whole number; write it as an integer",
        ),
        (changed("spans", 0, "type", to=3), "spans[0].type: 3 is an integer, not text; write it as a string"),
        (
            changed("spans", 0, "score", to=0.5),
            "spans[0].score: unknown key; the keys of a span are start, end, type",
        ),
    ],
)
def test_a_record_that_is_no_caption_is_refused_with_field_value_and_remedy(record, message):
    with pytest.raises(DataError) as error:
        Caption.from_record(record)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("sentence", "target"),
    [
        (Sentence(0, 1, "incorrect", votes=Votes(correct=1, incorrect=2)), 2 / 3),
        (Sentence(0, 1, "incorrect", votes=Votes(correct=1, incorrect=2, unknown=9)), 2 / 3),
        (Sentence(0, 1, "incorrect", votes=Votes(correct=0, incorrect=0, unknown=3)), 1.0),
        (Sentence(0, 1, "correct"), 0.0),
        (Sentence(0, 1, "incorrect"), 1.0),
        (Sentence(0, 1, "unknown", votes=Votes(correct=1, incorrect=2)), None),
        (Sentence(0, 1, None), None),
        (Sentence(0, 1, None, votes=Votes(correct=3, incorrect=1)), 0.25),
    ],
)
def test_the_target_of_a_sentence_is_the_share_of_its_votes_else_its_label(sentence, target):
    assert sentence.target == target


def test_the_spans_in_a_sentence_are_those_that_share_a_character_with_it():
    caption = Caption.from_record(
        changed("spans", to=[{"start": 18, "end": 22}, {"start": 20, "end": 21}, {"start": 30, "end": 36}])
    )
    assert caption.spans_in(caption.sentences[0]) == (Span(18, 22),)
    assert caption.spans_in(caption.sentences[1]) == (Span(18, 22), Span(30, 36))


PREDICTION = Prediction(
    caption=CAPTION,
    sentences=(SentenceScore(0.1 + 0.2), SentenceScore(None, "longer than the window")),
    spans=(PredictedSpan(12, 19, "Object", 0.875), PredictedSpan(2, 5, None, 0.5)),
)


def test_a_prediction_writes_the_caption_with_scores_and_spans():
    record = PREDICTION.to_record()
    assert record["sentences"][0] == RECORD["sentences"][0] | {"p_incorrect": 0.30000000000000004}
    assert record["sentences"][1] == RECORD["sentences"][1] | {
        "p_incorrect": None,
        "unscored": "longer than the window",
    }
    assert record["predicted"] == [
        {"start": 12, "end": 19, "type": "Object", "score": 0.875},
        {"start": 2, "end": 5, "type": None, "score": 0.5},
    ]


def test_a_prediction_survives_json_unrounded():
    assert Prediction.from_record(json.loads(json.dumps(PREDICTION.to_record()))) == PREDICTION


def prediction_with(sentence: dict | None = None, span: dict | None = None) -> dict:
    record = PREDICTION.to_record()
    record["sentences"][0] |= sentence or {}
    record["predicted"][0] |= span or {}
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (RECORD, "predicted: missing; this is a caption without a prediction: score it first"),
        (
            PREDICTION.to_record() | {"sentences": None},
            "predicted: missing; this is a caption without a prediction: score it first",
        ),
        (
            prediction_with({"p_incorrect": None}),
            "sentences[0].p_incorrect: null without a reason; give a probability, or say why in `unscored`",
        ),
        (
            prediction_with({"unscored": "too long"}),
            "sentences[0].unscored: 'too long' with p_incorrect 0.30000000000000004; a sentence has one of the two",
        ),
        (
            prediction_with({"p_incorrect": 1.5}),
            "sentences[0].p_incorrect: 1.5 is not a probability; give a number from 0 to 1",
        ),
        (
            prediction_with({"p_incorrect": float("nan")}),
            "sentences[0].p_incorrect: nan is not a probability; give a number from 0 to 1",
        ),
        (
            prediction_with({"p_incorrect": "0.5"}),
            "sentences[0].p_incorrect: '0.5' is a string, not a number; give a probability from 0 to 1",
        ),
        (
            prediction_with(span={"score": True}),
            "predicted[0].score: True is a boolean, not a number; give a probability from 0 to 1",
        ),
        (
            prediction_with(span={"end": 99}),
            "predicted[0].end: 99 is beyond the text's 36 characters; count characters (not bytes) of this "
            "caption's own text",
        ),
        (
            prediction_with(span={"p": 1}),
            "predicted[0].p: unknown key; the keys of a predicted span are start, end, type, score",
        ),
    ],
)
def test_a_record_that_is_no_prediction_is_refused_with_field_value_and_remedy(record, message):
    with pytest.raises(DataError) as error:
        Prediction.from_record(record)
    assert str(error.value) == message


def test_a_prediction_has_one_score_for_each_sentence():
    with pytest.raises(DataError, match="1 scores for the 2 sentences of caption 'gpt4o/000000000139'"):
        Prediction(CAPTION, (SentenceScore(0.5),))


names = st.text(min_size=1).filter(str.strip)


@st.composite
def captions(draw: st.DrawFn) -> Caption:
    text = draw(names)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), min_size=2)))
    labels = st.sampled_from([None, "correct", "incorrect", "unknown"])
    votes = st.one_of(st.none(), st.builds(Votes, *[st.integers(0, 5)] * 3))
    kinds = st.lists(names, max_size=2).map(tuple)
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    sentences = tuple(Sentence(*pair, draw(labels), draw(kinds), draw(votes)) for pair in ranges)
    spans = tuple(Span(*pair, draw(st.one_of(st.none(), names))) for pair in draw(st.permutations(ranges)))
    direction = draw(st.sampled_from(["image_to_text", "text_to_image"]))
    return Caption(draw(names), draw(names), draw(names), direction, text, sentences, spans)


@given(captions())
def test_any_caption_survives_its_json_record(caption):
    assert Caption.from_record(json.loads(json.dumps(caption.to_record()))) == caption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit": 3.0}, "sentences[0].logit: 3.0 is not the log-odds of the probability 0.3"),
        ({"logit": "high"}, "sentences[0].logit: 'high' is a string, not a number; give the log-odds, or leave it out"),
        ({"logit": float("nan")}, "sentences[0].logit: nan is not the log-odds of the probability 0.3"),
    ],
)
def test_a_logit_is_that_of_its_probability(changes, message):
    with pytest.raises(DataError) as error:
        Prediction.from_record(prediction_with({"p_incorrect": 0.3} | changes))
    assert str(error.value).startswith(message)


def test_a_logit_and_a_threshold_come_back_from_a_record():
    record = prediction_with({"p_incorrect": 1.0, "logit": 60.0}) | {"threshold": 0.4}
    prediction = Prediction.from_record(record)
    assert (prediction.sentences[0].logit, prediction.threshold) == (60.0, 0.4)
    assert Prediction.from_record(prediction.to_record()) == prediction
    with pytest.raises(DataError, match=r"threshold: 1\.5 is not a probability"):
        Prediction.from_record(record | {"threshold": 1.5})
