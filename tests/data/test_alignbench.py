"""Tests of the AlignBench reader: captions made of rows, error words made spans, images found or missed."""

import json
import time
from collections import Counter

import pytest

from halspan.core.captions import Sentence, Span, Votes
from halspan.core.errors import DataError
from halspan.data.readers.alignbench import HUB_DATASET, AlignBench


@pytest.fixture
def load(tmp_path, paint, write_lines):
    """Write rows to a folder with images/1.png and images/2.png, and load it."""

    def load(*rows, **options):
        for number in (1, 2):
            paint(tmp_path / f"images/{number}.png", number)
        write_lines(tmp_path / "halcap_bench.jsonl", rows)
        return AlignBench(path=tmp_path, **options).load()

    return load


def texts(corpus):
    """Return each span's text and type, over all captions."""
    return [(c.text[span.start : span.end], span.type) for c in corpus.captions for span in c.spans]


def test_the_rows_of_a_model_and_image_are_one_caption_in_the_order_of_their_index(load, row):
    corpus = load(
        row(sentence_index=1, caption=" He  waves. "),
        row(model="sd", caption="A dog."),
        row(sentence_index=0, caption="A man."),
        row(caption="A cat.", image_path_in_repo="images/2.png"),
    )
    captions = {caption.id: caption.text for caption in corpus.captions}
    assert captions == {
        "llava/images/1.png": "A man. He  waves.",
        "sd/images/1.png": "A dog.",
        "llava/images/2.png": "A cat.",
    }
    assert corpus.captions[0].sentences == (Sentence(0, 6, "correct"), Sentence(7, 17, "correct"))


def test_text_to_image_models_are_told_from_captioners(load, row):
    corpus = load(*(row(model=model) for model in ("llava", "sd", "gpt4o-imagen")))
    directions = {caption.generator: caption.direction for caption in corpus.captions}
    assert directions == {"llava": "image_to_text", "sd": "text_to_image", "gpt4o-imagen": "text_to_image"}


def test_error_words_of_a_later_sentence_are_offset_by_what_stands_before_it(load, row):
    corpus = load(
        row(caption="A red man."),
        row(
            sentence_index=1, caption="A red hat.", annotation="incorrect", error_type="Attribute", error_words=["red"]
        ),
    )
    (caption,) = corpus.captions
    assert caption.spans == (Span(13, 16, "Attribute"),)
    assert caption.sentences[1] == Sentence(11, 21, "incorrect", types=("Attribute",))


@pytest.mark.parametrize(
    ("error_type", "error_words"),
    [
        ("Attribute", "red"),
        ("attribute", ["red"]),
        (["Attribute"], '["red"]'),
        ('["ATTRIBUTE"]', "['red']"),
        ("Attributes", ["red", ""]),
    ],
)
def test_types_and_words_may_come_in_any_form(load, row, error_type, error_words):
    corpus = load(
        row(caption="A red hat.", annotation="Incorrect ", error_type=error_type, error_words=error_words),
    )
    assert texts(corpus) == [("red", "Attribute")]


@pytest.mark.parametrize("error_words", [None, "", [], "[]", float("nan")])
@pytest.mark.parametrize("error_type", [None, "", [], "None", float("nan")])
def test_without_words_and_type_a_sentence_is_incorrect_all_the_same(load, row, error_type, error_words):
    corpus = load(row(annotation="incorrect", error_type=error_type, error_words=error_words))
    (caption,) = corpus.captions
    assert caption.sentences == (Sentence(0, 20, "incorrect"),)
    assert caption.spans == ()
    assert corpus.notes["sentences"] == {"incorrect without error_words": 1}


def test_the_forms_that_were_met_are_counted(load, row):
    corpus = load(
        row(annotation="Correct", error_type=float("nan"), error_words=""),
        row(sentence_index=1, annotation="INCORRECT", error_type="Object, Text", error_words='["man"]'),
    )
    assert corpus.notes["forms"] == {
        "annotation: Correct": 1,
        "annotation: INCORRECT": 1,
        "error_type: null": 1,
        "error_type: delimited string": 1,
        "error_words: empty string": 1,
        "error_words: JSON list": 1,
    }


def test_words_are_counted_as_matched_ambiguous_and_unmatched_and_by_how_they_were_found(load, row):
    corpus = load(
        row(caption="A man, a red hat, a ‘red’ dog.", annotation="incorrect", error_words=["Man", "red", "'red' dog"]),
        row(sentence_index=1, caption="A cat, a cat.", annotation="incorrect", error_words=["cat", "horse"]),
    )
    assert corpus.notes["error_words"] == {"matched": 2, "ambiguous": 2, "unmatched": 1}
    assert corpus.notes["error_words_found"] == {"folded": 2, "exact": 2}
    assert texts(corpus) == [("man", None), ("red", None), ("‘red’ dog", None), ("cat", None)]


def test_words_that_do_not_occur_leave_the_sentence_incorrect_and_are_named_in_a_warning(load, row, caplog):
    corpus = load(
        row(caption="A red hat.", annotation="incorrect", error_type="Object", error_words=["hat"]),
        row(sentence_index=1, caption="A dog.", annotation="incorrect", error_type="Object", error_words=["horse"]),
    )
    assert corpus.captions[0].sentences[1].label == "incorrect"
    assert texts(corpus) == [("hat", "Object")]
    assert "halcap_bench.jsonl:2: error_words: 'horse' does not occur in 'A dog.'" in caplog.text
    assert corpus.notes["problems"]["error_words"] == [caplog.messages[0].partition(";")[0]]


def test_words_most_of_which_do_not_occur_are_an_error(load, row):
    bad = row(caption="A dog.", annotation="incorrect", error_words=["horse"])
    with pytest.raises(
        DataError, match=r":1: error_words: 'horse' does not occur in 'A dog\.'; so do 1 of 1 .*correct"
    ):
        load(bad)
    assert load(bad, on_error="skip").notes["error_words"]["unmatched"] == 1


def test_types_in_the_number_of_the_words_belong_to_one_each(load, row):
    corpus = load(
        row(
            caption="A red hat.",
            annotation="incorrect",
            error_type=["Attribute", "Object"],
            error_words=["red", "hat"],
        )
    )
    assert texts(corpus) == [("red", "Attribute"), ("hat", "Object")]
    assert corpus.captions[0].sentences[0].types == ("Attribute", "Object")


def test_types_in_another_number_than_the_words_are_known_for_the_sentence_only(load, row):
    corpus = load(
        row(caption="A red hat.", annotation="incorrect", error_type=["Attribute", "Object"], error_words=["red hat"])
    )
    assert texts(corpus) == [("red hat", None)]
    assert corpus.captions[0].sentences[0].types == ("Attribute", "Object")
    assert corpus.notes["sentences"] == {"with several types for words in another number, spans left without a type": 1}


@pytest.mark.parametrize("annotation", ["correct", "unknown"])
def test_words_of_a_sentence_that_is_not_incorrect_make_no_span_and_are_counted(load, row, annotation):
    corpus = load(row(annotation=annotation, error_type="Object", error_words=["man"]))
    (caption,) = corpus.captions
    assert (caption.spans, caption.sentences[0].types) == ((), ())
    assert corpus.notes["sentences"] == {f"{annotation}, their error_words or error_type ignored": 1}


@pytest.mark.parametrize("two", [2, 2.0, "2"])
def test_votes_are_kept_however_a_table_wrote_the_numbers(load, row, two):
    corpus = load(row(n_correct=1, n_incorrect=two, n_unknown=None))
    assert corpus.captions[0].sentences[0].votes == Votes(1, 2, 0)


@pytest.mark.parametrize("nothing", [None, 0, float("nan"), ""])
def test_without_a_vote_there_are_no_votes(load, row, nothing):
    corpus = load(row(n_correct=nothing, n_incorrect=nothing, n_unknown=nothing))
    assert corpus.captions[0].sentences[0].votes is None


@pytest.mark.parametrize("given", [{"n_incorrect": 1}, {"n_incorrect": 1, "n_unknown": 1}, {"n_correct": 2}])
def test_votes_of_which_a_column_is_missing_are_not_known_and_are_counted(load, row, given, caplog):
    corpus = load(row(**given), row(sentence_index=1, n_correct=3, n_incorrect=0))
    first, second = corpus.captions[0].sentences
    assert (first.votes, first.target, second.votes) == (None, 0, Votes(3, 0, 0))
    assert corpus.notes["votes"] == {"incomplete, left out": 1}
    (problem,) = corpus.notes["problems"]["incomplete votes"]
    assert "halcap_bench.jsonl:1: n_" in problem
    assert f"incomplete votes: 1, first: {problem}" in caplog.text


def test_a_vote_column_that_the_file_does_not_have_is_missing_too(load, row):
    bad = row(n_incorrect=1)
    del bad["n_correct"]
    assert load(bad).captions[0].sentences[0].target == 0


def test_votes_against_the_label_are_counted_with_an_example(load, row):
    votes = ((0, 3), (1, 2), (2, 1), (1, 1))
    corpus = load(
        *(row(sentence_index=i, n_correct=correct, n_incorrect=wrong) for i, (correct, wrong) in enumerate(votes)),
        row(sentence_index=4, annotation="incorrect", n_correct=2, n_incorrect=1),
        row(sentence_index=5, annotation="unknown", n_correct=2, n_incorrect=1),
    )
    assert corpus.notes["votes"] == {"against the label": 3}
    example = corpus.notes["examples"]["votes against the label"]
    assert "halcap_bench.jsonl:1: n_incorrect: 3 of 3 votes, but the sentence is labeled correct" in example


MALFORMED = {
    "an unknown label": ({"annotation": "wrong"}, "annotation: 'wrong' is not possible; one of correct, incorrect"),
    "a label that is no text": ({"annotation": 1}, "annotation: 1 is an integer"),
    "an unknown type": ({"error_type": "Color"}, "error_type: 'Color' is not possible; one of Attribute, Object"),
    "words that are no text": ({"error_words": [3]}, "error_words: 3 in a list is an integer"),
    "an empty sentence": ({"caption": " "}, "caption: ' ' is empty"),
    "a position that is no number": ({"sentence_index": "first"}, "sentence_index: 'first' is a string, not a count"),
    "no position": ({"sentence_index": None}, "sentence_index: null; give the sentence's 0-based position"),
    "negative votes": ({"n_correct": -1}, "n_correct: -1 is an integer, not a count"),
    "a vote that is true": ({"n_correct": True}, "n_correct: True is a boolean, not a count"),
    "infinitely many votes": ({"n_correct": float("inf")}, "n_correct: inf is a float, not a count"),
    "no model": ({"model": ""}, "model: '' is empty"),
    "no image": ({"image_path_in_repo": None, "image_name": ""}, "image_path_in_repo: empty, and so are image_url"),
}


@pytest.mark.parametrize(("changes", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_row_is_an_error_with_file_line_value_and_remedy(load, row, changes, problem):
    with pytest.raises(DataError, match=rf"halcap_bench\.jsonl:2: {problem}"):
        load(row(model="gpt4o"), row(**changes))


@pytest.mark.parametrize("changes", [changes for changes, _ in MALFORMED.values()], ids=MALFORMED)
def test_the_caption_of_a_malformed_row_is_skipped_and_counted_where_asked(load, row, changes):
    corpus = load(row(model="gpt4o"), row(**changes), on_error="skip")
    assert [caption.generator for caption in corpus.captions] == ["gpt4o"]
    assert corpus.skipped["malformed records"] == 1


@pytest.mark.parametrize("column", ["model", "sentence_index", "caption", "annotation"])
def test_a_missing_column_is_an_error(load, row, column):
    bad = row()
    del bad[column]
    with pytest.raises(DataError, match=f"{column}: missing; an AlignBench row needs model, sentence_index"):
        load(bad)


def test_captions_that_are_no_rows_are_sent_to_their_own_reader_once(load, record):
    with pytest.raises(
        DataError, match=r":1: is a caption, not a row .* read it with data=jsonl .and 2 more like it.\n"
    ):
        load(*[record(id=f"a/{number}") for number in range(3)])


def test_a_repeated_row_is_an_error_that_names_both(load, row):
    with pytest.raises(DataError, match=r":2: sentence_index: 0 of llava's caption .* stands in .*:1 already"):
        load(row(), row(caption="A dog."))


def test_a_caption_with_repeated_rows_is_skipped_and_counted_where_asked(load, row):
    corpus = load(row(), row(caption="A dog."), row(caption="A cat."), row(model="sd"), on_error="skip")
    assert [caption.generator for caption in corpus.captions] == ["sd"]
    assert corpus.skipped == {"repeated rows": 2, "captions with repeated rows": 1}
    assert ":2: sentence_index: 0 of llava's caption" in corpus.notes["problems"]["repeated rows"][0]


def test_a_caption_with_a_missing_sentence_is_an_error_that_says_which(load, row):
    with pytest.raises(DataError, match=r"llava's caption of 'images/1\.png' has 2 rows .0, 2. but no 1; add the row"):
        load(row(), row(sentence_index=2))


def test_a_caption_with_a_missing_sentence_is_skipped_and_counted_where_asked(load, row):
    corpus = load(row(), row(sentence_index=2), row(model="sd"), on_error="skip")
    assert [caption.generator for caption in corpus.captions] == ["sd"]
    assert corpus.skipped == {"captions with missing sentences": 1}


def test_the_same_sentence_may_stand_twice_in_a_caption(load, row):
    (caption,) = load(row(caption="A dog."), row(sentence_index=1, caption="A dog.")).captions
    assert caption.text == "A dog. A dog."


def test_images_that_the_release_links_to_are_found_in_the_folder_given(load, row, paint, tmp_path):
    url = "http://images.cocodataset.org/val2017/000000000139.jpg"
    path = paint(tmp_path / "coco" / "000000000139.jpg")
    corpus = load(row(image_path_in_repo=None, image_url=url), images=tmp_path / "coco")
    assert corpus.image_path(corpus.captions[0]) == path
    assert corpus.captions[0].id == f"llava/{url}"


def test_an_image_outside_the_corpus_is_named_absolutely(load, row, paint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    path = paint(folder / "139.jpg")
    corpus = load(row(image_path_in_repo="", image_name="139.jpg"), images=folder)
    assert corpus.captions[0].image == str(path.resolve())


def test_a_file_name_that_two_addresses_share_stands_for_neither(load, row, paint, tmp_path):
    paint(tmp_path / "web" / "image.jpg")
    urls = ["https://one.example/image.jpg", "https://two.example/image.jpg"]
    rows = [row(image_path_in_repo=None, image_url=url, image_name=None) for url in urls]
    with pytest.raises(DataError, match="0 of 2 images can be used"):
        load(*rows, images=tmp_path / "web")


def test_captions_without_an_image_are_counted_and_too_many_of_them_refused(load, row, tmp_path):
    rows = [row(), row(image_path_in_repo="images/3.png")]
    with pytest.raises(DataError, match=r"1 of 2 images can be used .50\.0%.* fewer than data\.min_images=0\.9"):
        load(*rows)
    assert load(*rows, min_images=0.5).skipped == {"captions without their image": 1}
    with pytest.raises(DataError, match=r"images/3\.png: does not exist"):
        load(*rows, missing_image="raise")


def test_a_corpus_under_another_file_name_is_found_in_its_folder(tmp_path, paint, write_lines, row):
    paint(tmp_path / "images/1.png")
    write_lines(tmp_path / "halcap_like.jsonl", [row()])
    assert len(AlignBench(path=tmp_path).load().captions) == 1


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return an empty cache of the hub's client, which is kept off line."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_off_line_without_a_cached_copy_the_error_names_both_remedies(hub_cache):
    with pytest.raises(DataError, match=r"AlignBench .main. from the hub.*; set data\.path .* or run once online"):
        AlignBench().load()


def test_a_copy_in_the_hubs_cache_is_used_and_its_commit_recorded(hub_cache, paint, write_lines, row):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub_cache / f"datasets--{HUB_DATASET.replace('/', '--')}"
    paint(repository / "snapshots" / commit / "images" / "1.png")
    write_lines(repository / "snapshots" / commit / "halcap_bench.jsonl", [row()])
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    corpus = AlignBench().load()
    assert len(corpus.captions) == 1
    assert corpus.source["commit"] == commit
    assert corpus.source["dataset"] == HUB_DATASET


def test_the_sample_of_the_release_is_read_whole(shared_data):
    corpus = AlignBench(path=shared_data / "alignbench_sample").load()
    labels = Counter(sentence.label for caption in corpus.captions for sentence in caption.sentences)
    spans = [span for caption in corpus.captions for span in caption.spans]
    assert len(corpus.captions) == 24
    assert labels == {"correct": 96, "incorrect": 57}
    assert corpus.notes["error_words"] == {"matched": 57, "ambiguous": 0, "unmatched": 0}
    assert len({span.type for span in spans} - {None}) == 8
    assert sum(span.type is None for span in spans) == 1
    assert len(corpus.generators) == 8


@pytest.mark.parametrize(
    "form",
    [", ".join, "; ".join, json.dumps, str, lambda words: json.dumps(words, ensure_ascii=False)],
    ids=["commas", "semicolons", "JSON", "Python", "JSON beyond ASCII"],
)
def test_the_form_of_the_words_does_not_change_the_spans_of_the_sample(shared_data, tmp_path, write_lines, form):
    folder = shared_data / "alignbench_sample"
    rows = [json.loads(line) for line in (folder / "halcap_bench.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "rewritten.jsonl", [row | {"error_words": form(row["error_words"])} for row in rows])
    rewritten = AlignBench(path=tmp_path, images=folder).load()
    assert texts(rewritten) == texts(AlignBench(path=folder).load())


@pytest.mark.parametrize(
    ("name", "labels", "n_captions"),
    [
        ("flickr8k_esnlive", {"correct": 1188, "incorrect": 1260, "unknown": 769}, 233),
        ("flickr8k_crowd", {"correct": 249, "incorrect": 8346, "unknown": 795}, 200),
    ],
)
def test_other_corpora_in_its_columns_are_read_whole(shared_data, name, labels, n_captions):
    corpus = AlignBench(path=shared_data / name).load()
    sentences = [sentence for caption in corpus.captions for sentence in caption.sentences]
    assert Counter(sentence.label for sentence in sentences) == labels
    assert len(corpus.captions) == n_captions
    assert corpus.skipped == {}


@pytest.mark.slow
def test_a_corpus_of_the_releases_size_is_indexed_in_seconds(tmp_path, paint, row):
    models = [("sharegpt", 19314), ("llama-4", 17092), ("gpt4o", 14032), ("sd", 22005)]
    models += [("cogvlm", 7769), ("llava", 16795), ("gpt4o-imagen", 3968), ("qwen", 16286)]  # rows, as in the release
    n_images = 1750  # of each model, which makes 14,000 captions
    for number in range(n_images):
        paint(tmp_path / f"images/{number}.png", number)
    with (tmp_path / "halcap_bench.jsonl").open("w") as file:
        for model, n_rows in models:
            for index in range(n_rows):
                sentence, image = divmod(index, n_images)
                wrong = (
                    {"annotation": "incorrect", "error_type": "Object", "error_words": ["horse"]} if sentence else {}
                )
                place = {"sentence_index": sentence, "image_path_in_repo": f"images/{image}.png"}
                file.write(json.dumps(row(model=model, **place, **wrong)) + "\n")
    start = time.perf_counter()
    corpus = AlignBench(path=tmp_path).load()
    assert time.perf_counter() - start < 30  # about 4 s on an idle core
    assert len(corpus.captions) == 14_000
    assert sum(len(caption.sentences) for caption in corpus.captions) == 117_261
