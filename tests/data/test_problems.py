"""Tests of what is probably wrong with captions that can be read."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halspan.core.captions import Caption
from halspan.data.corpus import Corpus
from halspan.data.inspection.problems import find_problems, group_by_kind, log_problems


@pytest.fixture
def corpus(record):
    """Make a corpus of captions that differ from the usual one in the keys given; generators alternate."""

    def corpus(*changes: dict[str, Any]) -> Corpus:
        records = [
            record(**({"id": f"c/{n}", "generator": "ab"[n % 2], "image": f"{n}.png"} | change))
            for n, change in enumerate(changes)
        ]
        captions = tuple(map(Caption.from_record, records))
        taxonomy = {t for r in records for s in r["spans"] for t in [s.get("type")] if t} | {"Object"}
        taxonomy |= {t for r in records for s in r["sentences"] for t in s.get("types", ())}
        lines = {caption.id: number for number, caption in enumerate(captions, start=1)}
        return Corpus(name="test", captions=captions, image_root=Path(), taxonomy=tuple(taxonomy), lines=lines)

    return corpus


def sentences(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "sentences": [
            {"start": 0, "end": 12, "label": "correct"} | (first or {}),
            {"start": 13, "end": 26, "label": "incorrect"} | (second or {}),
        ]
    }


def test_a_sound_corpus_has_no_problem(corpus):
    assert find_problems(corpus({}, {})) == []


# The text is "A man rides. He has a hat.": sentences [0, 12) and [13, 26), the hat [22, 25).
SINGLE = {
    "a span off by one": (
        {"spans": [{"start": 23, "end": 26, "type": "Object"}]},
        "spans off their words",
        "line 1, c/0: spans[0]: 'at.' [23, 26) cuts a word; probably 'hat' [22, 25)",
    ),
    "a span with a space": (
        {"spans": [{"start": 21, "end": 25}]},
        "spans off their words",
        "line 1, c/0: spans[0]: ' hat' [21, 25) takes a space; probably 'hat' [22, 25)",
    ),
    "a span in a correct sentence": (
        {"spans": [{"start": 2, "end": 5}]},
        "spans in correct sentences",
        "line 1, c/0: spans[0]: 'man' [2, 5) is in sentences[0], which is labeled correct; label the sentence "
        "incorrect, or correct the span",
    ),
    "a span between sentences": (
        {"sentences": [{"start": 0, "end": 12, "label": "correct"}, {"start": 16, "end": 26, "label": "incorrect"}],
         "spans": [{"start": 13, "end": 15}]},
        "spans outside of the sentences",
        "line 1, c/0: spans[0]: 'He' [13, 15) is in no sentence; add its sentence, or correct the span",
    ),
    "a span where nothing is labeled": (
        sentences(second={"label": None}),
        "spans in sentences without a label",
        "line 1, c/0: 'hat' [22, 25) is in a sentence without a label, so it is not used; label the sentence "
        "incorrect",
    ),
    "a misspelled type": (
        {"spans": [{"start": 22, "end": 25, "type": "Objekt"}]},
        "types that are probably misspelled",
        "line 1, c/0: type 'Objekt', 1 in all, is a class of its own; probably 'Object'",
    ),
    "a type in small letters": (
        sentences(second={"types": ["object"]}),
        "types that are probably misspelled",
        "line 1, c/0: type 'object', 1 in all, is a class of its own; probably 'Object'",
    ),
    "half of the text": (
        {"sentences": [{"start": 0, "end": 12, "label": "incorrect"}], "spans": []},
        "sentences that leave out text",
        "line 1, c/0: 4 of 7 words are in no sentence, from 'He' [13, 15) on; add the sentences that are missing, "
        "labeled unknown where they were not judged",
    ),
    "a sentence off by one": (
        {"sentences": [{"start": 1, "end": 11, "label": "correct"}, {"start": 14, "end": 26, "label": "incorrect"}]},
        "sentences that cut a word",
        "line 1, c/0: sentences[1]: [14, 26) begins or ends inside a word; probably [13, 26)",
    ),
    "types of a correct sentence": (
        sentences(first={"types": ["Object"]}),
        "types of sentences that are not incorrect",
        "line 1, c/0: sentences[0]: Object of a sentence labeled correct; label it incorrect, or leave the types out",
    ),
    "votes against the label": (
        sentences(first={"votes": {"correct": 1, "incorrect": 2}}),
        "votes against the label",
        "line 1, c/0: sentences[0]: labeled correct, but most votes say incorrect; probably incorrect; training takes "
        "the votes, judging the label",
    ),
    "backslashes": (
        {"image": "images\\1.png"},
        "image paths with backslashes",
        "line 1, c/0: image: 'images\\\\1.png' is one name, not a path, except on Windows; probably 'images/1.png'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), SINGLE.values(), ids=SINGLE)
def test_a_problem_is_said_with_line_id_and_what_was_probably_meant(corpus, change, kind, message):
    (found,) = [problem for problem in find_problems(corpus(change, {})) if problem.kind == kind]
    assert str(found) == message


def test_two_spellings_of_a_type_of_ones_own_are_one(corpus):
    own = [{"spans": [{"start": 22, "end": 25, "type": name}]} for name in ("Hat wrong", "Hat Wrong", "Hat wrong")]
    (found,) = find_problems(corpus(*own))
    assert (found.id, found.suggestion) == ("c/1", "probably 'Hat wrong'")


def test_types_of_ones_own_are_no_problem(corpus):
    assert not find_problems(corpus({"spans": [{"start": 22, "end": 25, "type": "value_error"}]}, {}))


def test_a_corpus_without_labels_is_one_problem_and_not_one_for_each_span(corpus):
    without = sentences({"label": None}, {"label": None})
    (found,) = find_problems(corpus(without, without))
    assert str(found) == (
        "no sentence is labeled correct or incorrect, so there is nothing to learn or to judge by; give sentences a "
        "`label`"
    )


def test_votes_are_labels(corpus):
    voted = sentences(*[{"label": None, "votes": {"correct": 1, "incorrect": 2}}] * 2)
    assert find_problems(corpus(voted, voted)) == []


def test_a_single_class_a_single_generator_and_repeated_captions_are_named(corpus):
    same = sentences(second={"label": "correct"}) | {"generator": "a", "image": "1.png", "spans": []}
    assert [(p.kind, p.id) for p in find_problems(corpus(same, same))] == [
        ("one class", ""),
        ("one generator", ""),
        ("captions that repeat another one", "c/1"),
    ]


def test_generators_that_differ_in_case_only_are_named_once(corpus):
    found = find_problems(corpus(*[{"generator": name} for name in ("GPT-4o", "gpt-4o", "gpt-4o", "b")]))
    assert [str(problem) for problem in found] == [
        "generator 'GPT-4o', 1 captions, counts as another one than 'gpt-4o'; probably 'gpt-4o'"
    ]


def test_each_kind_is_a_warning_with_its_count_and_the_first_example(corpus, caplog):
    wrong = {"spans": [{"start": 23, "end": 26}]}
    with caplog.at_level(logging.WARNING):
        log_problems(corpus(wrong, {}, wrong))
    message, hint = caplog.messages
    assert message.startswith("spans off their words: 2, first: line 1, c/0: spans[0]: 'at.' [23, 26) cuts a word;")
    assert hint == "halspan data check --all problems.csv lists every one of them"


def test_lines_are_left_out_where_they_are_not_known(corpus):
    found = find_problems(replace(corpus({"spans": [{"start": 23, "end": 26}]}, {}), lines={}))
    assert str(found[0]).startswith("c/0: spans[0]")
    assert list(group_by_kind(found)) == ["spans off their words"]
