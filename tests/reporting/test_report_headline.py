import pytest
from small_report import judged, predict

from halspan.reporting.headline import read_gain, read_headline, read_notes
from halspan.reporting.paper_table import paper_table

CLOSE = 0.02  # from a figure to either end of its interval


def figure(value, *, interval):
    ends = {"ci95": {"sentence.auroc.macro": [value - CLOSE, value + CLOSE]}} if interval else {}
    return {"sentence.auroc.macro": value, **ends}


def read(macro, interval=None, blind=None, bow=None, reasons=None, counts=(100, 300, 50), of_controls=True):
    """Read a headline of figures; `counts` are incorrect sentences, correct ones and images."""
    incorrect, correct, images = counts
    metrics = {
        "all": {
            "n": {"images": images},
            "sentence": {"auroc": {"macro": macro}},
            "slices": {"direction": {"image_to_text": {"n": {"incorrect": incorrect, "correct": correct}}}},
            "ci95": {},
        },
        "reasons": reasons or {},
    }
    if interval:
        metrics["all"]["ci95"]["sentence.auroc.macro"] = interval
    if blind is not None:
        metrics["blind"] = figure(blind, interval=of_controls)
    if bow is not None:
        metrics["baselines"] = {"bow": {"title": "bag of words", "cost": None} | figure(bow, interval=of_controls)}
    return read_headline(metrics, paper_table(metrics).rows)


def test_a_detector_above_both_controls_looks_at_the_image():
    assert read(0.9, [0.88, 0.92], blind=0.52, bow=0.55) == (
        "The detector tells incorrect sentences from correct ones with an AUROC of 0.900 (95 % interval 0.880 to "
        "0.920); with exchanged images it falls to 0.520, near the best image-blind baseline (bag of words, 0.550), so "
        "it looks at the image."
    )


@pytest.mark.parametrize(
    ("controls", "says"),
    [
        ({"blind": 0.52, "bow": 0.7}, "below the best image-blind baseline"),
        ({"blind": 0.7, "bow": 0.55}, "tells more from the text alone than the best image-blind baseline"),
        ({"blind": 0.87, "bow": 0.55}, "still reaches 0.870 (95 % interval 0.850 to 0.890), so it has not shown that"),
        ({"blind": 0.52, "bow": 0.87}, "(bag of words) reaches 0.870 (95 % interval 0.850 to 0.890), so it has not"),
        ({"bow": 0.89}, "so it has not shown that it looks at the image"),
        ({"blind": 0.52}, "so it looks at the image; there is no image-blind baseline"),
        ({"bow": 0.55}, "whether it looks at the image remains open"),
    ],
)
def test_what_is_said_follows_from_the_lower_end_and_the_controls(controls, says):
    assert says in read(0.9, [0.88, 0.92], **controls)


def test_a_detector_whose_interval_holds_chance_is_not_called_better():
    assert read(0.53, [0.49, 0.57], blind=0.4).endswith("which is not shown to be better than chance (0.5).")


def test_without_an_interval_the_question_is_open():
    why = "undefined in 12% of the resamples"
    said = read(0.9, blind=0.52, bow=0.55, reasons={"all.ci95.sentence.auroc.macro": why})
    assert "0.900 (no interval)" in said
    assert said.endswith(f"its interval is not known ({why}), so whether it looks at the image remains open.")


@pytest.mark.parametrize("controls", [{"blind": 0.52, "bow": 0.55}, {"blind": 0.52}])
def test_controls_without_an_interval_leave_the_question_open(controls):
    said = read(0.9, [0.88, 0.92], **controls, of_controls=False)
    assert said.endswith("so whether it looks at the image remains open.")


@pytest.mark.parametrize("counts", [(2, 300, 50), (300, 19, 50), (100, 300, 5), (0, 0, 0)])
def test_few_sentences_of_either_class_or_few_images_leave_the_question_open(counts):
    said = read(1.0, [1.0, 1.0], blind=0.52, bow=0.55, counts=counts)
    assert "fewer than 20 of any of these are too few" in said
    assert said.endswith("so whether it looks at the image remains open.")
    assert "it looks at the image, " not in said


def test_enough_is_enough():
    assert read(0.9, [0.88, 0.92], blind=0.5, bow=0.5, counts=(20, 20, 20)).endswith("so it looks at the image.")


def test_unscored_sentences_do_not_count_as_data():
    predictions = [
        predict(str(number), ("A.", "incorrect", "too long"), ("B.", "correct", 0.1), image=f"{number}.png")
        for number in range(30)
    ]
    metrics = judged({"all": [*predictions, predict("x", ("A.", "incorrect", 0.9))]})
    assert "it rests on 1 incorrect and 30 correct sentences" in read_headline(metrics, paper_table(metrics).rows)


def test_what_training_took_is_said_of_each_part():
    gone = "63 of 70 captions are left out: their images are in train or val (cleo 63)"
    without = {"sentence": {"auroc": {"macro": 0.52}}, "ci95": {"sentence.auroc.macro": [0.4, 0.6]}}
    known = {"sentences": 1840, "sentences_in_train": 1825, "captions": 36, "captions_in_train": 0}
    metrics = {
        "val": {"n": known, "sentence": {}, "without_train_texts": {"sentence": {"auroc": {"macro": None}}}},
        "test_seen": {"n": known, "sentence": {}, "without_train_texts": without},
        "test_heldout": {"n": {"left_out": 63}, "sentence": {}, "without_train_texts": None},
        "reasons": {"val.without_train_texts.sentence.auroc.macro": "one class", "test_heldout.n.left_out": gone},
    }
    counted = "1,825 of 1,840 sentences and 0 of 36 captions occur word for word in train; AUROC without them"
    assert read_notes(metrics) == [
        f"val: {counted}: none, one class.",
        f"test_seen: {counted}: 0.520 (95 % interval 0.400 to 0.600).",
        f"test_heldout: {gone}.",
    ]
    assert read_notes({}) == []


def test_without_a_figure_the_reason_is_given():
    assert read(None, reasons={"all.sentence.auroc.macro": "one class only"}) == (
        "There is no AUROC of the detector: one class only."
    )


def test_the_gain_of_an_ensemble_is_signed():
    gain = {
        "over": "run a",
        "sentence.auroc.macro": {"difference": 0.0123, "low": -0.002, "high": 0.03, "p_a_better": 0.94},
        "span.char.f1": {"difference": None, "low": None, "high": None, "p_a_better": None},
    }
    assert read_gain({"gain": gain}) == [
        "Over its best member, run a, sentence AUROC changes by +0.012 (95 % interval -0.002 to +0.030; better in 94% "
        "of the draws)."
    ]
    assert read_gain({}) == []
