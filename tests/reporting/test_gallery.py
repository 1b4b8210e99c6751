import base64
import io

import pytest
from PIL import Image
from small_report import paint, predict

from halspan.core.errors import DataError
from halspan.reporting.gallery import abbreviate, caption_record, gallery_data, outcomes, sample, segments, thumbnail

TYPES = ["Attribute", "Object"]


def gallery(*predictions, read_image=paint, **more):
    options = {"thresholds": {"all": 0.5}, "read_image": read_image, "max_captions": 100} | more
    return gallery_data({"all": predictions}, **options)


def pieces(text, spans=(), found=(), start=0, end=None):
    prediction = predict("a", (text, "incorrect", 0.5), spans=spans, found=found)
    return segments(prediction.caption, prediction.spans, start, len(text) if end is None else end, TYPES)


def test_a_text_without_spans_is_one_piece():
    assert pieces("A cat.") == [{"text": "A cat."}]


def test_overlapping_spans_are_cut_at_every_end():
    # annotated 0-4, predicted 2-6: three pieces and the rest
    assert pieces("abcdefgh", [(0, 4, "Object")], [(2, 6, "Attribute", 0.5)]) == [
        {"text": "ab", "gold": [1]},
        {"text": "cd", "gold": [1], "found": [0], "ends": [{"type": 1}]},
        {"text": "ef", "found": [0], "ends": [{"type": 0, "score": 0.5}]},
        {"text": "gh"},
    ]


def test_nested_and_equal_spans_end_where_they_end():
    assert pieces("abcd", [(0, 4, "Object"), (1, 2, None), (0, 4, "Attribute")]) == [
        {"text": "a", "gold": [1, 0]},
        {"text": "b", "gold": [1, None, 0], "ends": [{"type": None}]},
        {"text": "cd", "gold": [1, 0], "ends": [{"type": 1}, {"type": 0}]},
    ]


def test_a_span_across_two_sentences_goes_on_in_the_second_and_ends_there():
    spans = [(2, 6, "Object")]
    assert pieces("abcdefgh", spans, end=4) == [{"text": "ab"}, {"text": "cd", "gold": [1]}]
    assert pieces("abcdefgh", spans, start=4) == [{"text": "ef", "gold": [1], "ends": [{"type": 1}]}, {"text": "gh"}]


def test_characters_are_counted_as_python_counts_them_beyond_the_basic_plane():
    assert pieces("a😀b", [(1, 2, "Object")])[1]["text"] == "😀"


@pytest.mark.parametrize(
    ("label", "score", "outcome"),
    [
        ("incorrect", 0.5, "right"),  # at the threshold counts as flagged
        ("incorrect", 0.49, "missed"),
        ("correct", 0.5, "false"),
        ("correct", 0.49, "right"),
        ("unknown", 0.9, "unjudged"),
        (None, 0.9, "unjudged"),
        ("incorrect", "too long", "unjudged"),
    ],
)
def test_the_outcome_of_one_sentence(label, score, outcome):
    assert outcomes(predict("a", ("A cat.", label, score)), 0.5) == [outcome]


def test_a_caption_can_miss_one_sentence_and_flag_another():
    prediction = predict("a", ("A cat.", "incorrect", 0.1), ("It runs.", "correct", 0.9), ("So.", "correct", 0.1))
    assert outcomes(prediction, 0.5) == ["missed", "false"]


@pytest.mark.parametrize(
    ("spans", "found", "outcome"),
    [
        ([(0, 4, "Object")], [(3, 5, "Object", 0.5)], ["words_right"]),  # one shared character is enough
        ([(0, 4, "Object")], [(4, 6, "Object", 0.5)], ["words_missed", "words_false"]),  # adjacent shares none
        ([(0, 4, "Object")], [], ["words_missed"]),
        ([], [(0, 2, "Object", 0.5)], []),  # incorrect without an annotated span: no annotator says where
        ([(0, 4, "Object")], [(0, 4, "Attribute", 0.5)], ["words_type"]),
        ([(0, 4, None)], [(0, 4, "Attribute", 0.5)], ["words_right"]),
        ([(0, 4, "Object"), (0, 4, "Attribute")], [(0, 4, "Attribute", 0.5)], ["words_right"]),
        ([], [], []),
    ],
)
def test_the_outcomes_of_words(spans, found, outcome):
    prediction = predict("a", ("abcdefgh", "incorrect", 0.9), spans=spans, found=found)
    assert outcomes(prediction, 0.5) == ["right", *outcome]


def test_words_in_a_sentence_that_nobody_judged_count_for_nothing():
    prediction = predict("a", ("A cat.", "correct", 0.1), ("It runs.", "unknown", 0.9), found=[(7, 9, "Object", 0.5)])
    assert outcomes(prediction, 0.5) == ["right"]


def test_words_in_a_correct_sentence_are_falsely_marked():
    prediction = predict("a", ("A cat.", "correct", 0.1), found=[(0, 1, "Object", 0.5)])
    assert outcomes(prediction, 0.5) == ["right", "words_false"]


def test_captions_are_ordered_by_their_highest_score_and_their_largest_error():
    record = caption_record(
        predict(
            "a", ("A.", "correct", 0.3), ("B.", "incorrect", 0.4), ("C.", "unknown", 0.9), ("D.", "correct", "cut")
        ),
        TYPES,
        0.5,
    )
    assert (record["highest"], record["wrong"]) == (0.9, pytest.approx(0.6))  # 1 - 0.4


def test_a_caption_without_any_score_has_neither():
    record = caption_record(predict("a", ("A.", "correct", "the image is missing")), TYPES, 0.5)
    assert (record["highest"], record["wrong"]) == (None, None)
    assert record["rows"][0]["unscored"] == "the image is missing"


def test_text_outside_of_sentences_is_a_row_that_has_no_label():
    prediction = predict("a", ("A cat.", "correct", 0.1))
    longer = prediction.caption.text + " (end)"
    caption = type(prediction.caption)("a", "1.png", "g", "image_to_text", longer, prediction.caption.sentences)
    rows = caption_record(type(prediction)(caption, prediction.sentences), TYPES, 0.5)["rows"]
    assert rows[1] == {"segments": [{"text": " (end)"}]}


def test_a_sample_keeps_shares_and_leaves_no_generator_out():
    # 90, 9 and 1 of 100; 10 of them: the first of each stratum, then in proportion
    predictions = [
        predict(f"{name}{i}", ("A.", "correct", 0.1), generator=name)
        for name, n in (("a", 90), ("b", 9), ("c", 1))
        for i in range(n)
    ]
    chosen = sample({"val": predictions}, 20)["val"]
    assert len(chosen) == 20
    counts = [sum(each.caption.generator == name for each in chosen) for name in "abc"]
    assert counts[2] == 1
    assert counts[1] in (2, 3)
    ids = [each.caption.id for each in predictions]
    assert [ids.index(each.caption.id) for each in chosen] == sorted(ids.index(each.caption.id) for each in chosen)


def test_a_sample_is_the_same_for_the_same_seed_and_everything_where_it_fits():
    parts = {"val": [predict(str(i), ("A.", "correct", 0.1)) for i in range(50)]}
    assert sample(parts, 10) == sample(parts, 10)
    assert sample(parts, 10) != sample(parts, 10, seed=1)
    assert sample(parts, 50) == parts


def test_the_gallery_says_how_many_captions_there_are_and_shows_each_image_once():
    predictions = [predict(str(i), ("A.", "correct", 0.1), image=f"{i % 2}.png") for i in range(10)]
    data = gallery(*predictions, max_captions=6)
    assert (data["n_all"], len(data["captions"]), len(data["images"])) == (10, 6, 2)
    assert {data["images"][caption["image"]]["width"] for caption in data["captions"]} == {8}


def test_an_unreadable_image_is_counted_and_says_why_without_its_folder():
    data = gallery(predict("a", ("A.", "correct", 0.1), image="/home/me/missing.png"))
    assert data["n_unreadable"] == 1
    assert data["images"] == [{"reason": "does not exist; put the file there or correct its path"}]
    assert "/home" not in str(data)


def test_a_large_photo_becomes_a_small_webp_and_a_tiny_picture_a_lossless_png():
    photo = thumbnail("a", lambda _: Image.effect_noise((1200, 900), 80).convert("RGB"))
    assert (photo["width"], photo["height"]) == (256, 192)
    assert photo["src"].startswith("data:image/webp;base64,")
    tiny = thumbnail("a", paint)
    pixels = Image.open(io.BytesIO(base64.b64decode(tiny["src"].partition(",")[2])))
    assert pixels.format == "PNG"
    assert pixels.getpixel((0, 0)) == paint("a").getpixel((0, 0))


def test_a_thumbnail_carries_no_metadata():
    image = paint("a")
    image.info["icc_profile"] = b"profile" * 99
    image.info["exif"] = b"Exif\0\0 GPS"
    assert thumbnail("a", lambda _: image) == thumbnail("a", paint)


def test_an_error_that_is_no_data_error_is_not_swallowed():
    def broken(path):
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        thumbnail("a", broken)
    assert "reason" in thumbnail("a", lambda path: (_ for _ in ()).throw(DataError("image a: is empty")))


def test_names_are_shortened_as_far_as_they_stay_apart():
    assert abbreviate(["Object", "Other", "Text"]) == ["Obj", "Oth", "Tex"]
    assert abbreviate(["label_a", "label_b", "no"]) == ["label_a", "label_b", "no"]
    assert abbreviate(["Text", "Text2"]) == ["Text", "Text2"]
