import json
import re

import pytest

from halspan.core import captions as core
from halspan.inference.results import Prediction, Sentence, Span, Unscored

TEXT = 'A <b>cat</b> & "dog". He ran. Who knows?'


@pytest.fixture
def prediction():
    sentences = (core.Sentence(0, 21), core.Sentence(22, 29), core.Sentence(30, 40))
    caption = core.Caption("1", "a.png", "g", "image_to_text", TEXT, sentences)
    scores = (core.SentenceScore(0.75), core.SentenceScore(0.25), core.SentenceScore(None, 'too "long" <here>'))
    spans = (core.PredictedSpan(2, 12, "<script>", 0.875),)
    return Prediction.of(core.Prediction(caption, scores, spans), threshold=0.5)


def test_a_prediction_has_its_words_beside_its_characters(prediction):
    assert prediction.sentences == (
        Sentence(0, 21, TEXT[:21], 0.75, True),
        Sentence(22, 29, "He ran.", 0.25, False),
    )
    assert prediction.spans == (Span(2, 12, "<script>", 0.875, "<b>cat</b>"),)


def test_what_has_no_score_is_listed_apart_and_never_correct(prediction):
    assert prediction.unscored == (Unscored(30, 40, "Who knows?", 'too "long" <here>'),)
    assert all(sentence.start != 30 for sentence in prediction.sentences)


def test_a_sentence_at_the_threshold_is_incorrect(prediction):
    caption = core.Caption("1", "a.png", "g", "image_to_text", "A cat.", (core.Sentence(0, 6),))
    scored = core.Prediction(caption, (core.SentenceScore(0.5),))
    assert Prediction.of(scored, threshold=0.5).sentences[0].is_incorrect


def test_the_dictionary_is_json_with_a_version(prediction):
    record = json.loads(json.dumps(prediction.to_dict()))
    assert record["schema"] == "halspan.prediction/1"
    assert set(record) == {"schema", "text", "sentences", "spans", "unscored"}
    assert record["spans"] == [{"start": 2, "end": 12, "type": "<script>", "score": 0.875, "text": "<b>cat</b>"}]
    assert record["unscored"][0]["reason"] == 'too "long" <here>'


def test_the_notebook_shows_the_text_as_it_is_with_marks_and_nothing_of_it_as_markup(prediction):
    html = prediction._repr_html_()
    shown = re.sub(r"<[^>]*>", "", html)
    for entity, character in {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}.items():
        shown = shown.replace(entity, character)
    assert shown == TEXT
    assert set(re.findall(r"</?(\w+)", html)) == {"div", "span", "mark"}
    assert re.search(r'<mark [^>]*title="&lt;script&gt; 0.88">&lt;b&gt;cat&lt;/b&gt;</mark>', html)
    assert 'title="not scored: too &quot;long&quot; &lt;here&gt;"' in html
