import pytest

from halspan.reporting.headline import read_gain, read_headline
from halspan.reporting.paper_table import paper_table


def read(macro, interval=None, blind=None, bow=None, reasons=None):
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": macro}}, "ci95": {}},
        "reasons": reasons or {},
    }
    if interval:
        metrics["all"]["ci95"]["sentence.auroc.macro"] = interval
    if blind is not None:
        metrics["blind"] = {"sentence.auroc.macro": blind}
    if bow is not None:
        metrics["baselines"] = {"bow": {"title": "bag of words", "sentence.auroc.macro": bow, "cost": None}}
    return read_headline(paper_table(metrics).rows)


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
        ({"blind": 0.89, "bow": 0.55}, "still reaches 0.890 (no interval), so it has not shown that it looks"),
        ({"blind": 0.52, "bow": 0.89}, "(bag of words) reaches 0.890 (no interval), so it has not shown that it looks"),
        ({"bow": 0.89}, "so it has not shown that it looks at the image"),
        ({"blind": 0.52}, "so it looks at the image; there is no image-blind baseline"),
        ({"bow": 0.55}, "whether it looks at the image is open"),
    ],
)
def test_what_is_said_follows_from_the_lower_end_and_the_controls(controls, says):
    assert says in read(0.9, [0.88, 0.92], **controls)


def test_a_detector_whose_interval_holds_chance_is_not_called_better():
    assert read(0.53, [0.49, 0.57], blind=0.4).endswith("which is not shown to be better than chance (0.5).")


def test_without_an_interval_the_figure_itself_decides_and_the_sentence_says_so():
    said = read(0.9, blind=0.52, bow=0.55)
    assert "0.900 (no interval)" in said
    assert said.endswith("so it looks at the image.")


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
