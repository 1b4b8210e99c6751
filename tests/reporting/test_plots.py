import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from small_report import PREDICTIONS, judged, predict

from halspan.reporting.paper_table import paper_table
from halspan.reporting.plots.drawing import NARROW, series
from halspan.reporting.plots.scores import draw_comparison, draw_curves, draw_generators, draw_preference
from halspan.reporting.plots.slices import draw_slices, sketch_type
from halspan.reporting.plots.svg import BLUE, render


class Elements(HTMLParser):
    """Collect what a browser makes of a piece of HTML."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.texts.append(data)


def position(index, correct, incorrect, auroc, n=10):
    return {
        "position": index,
        "n": {"correct": n, "incorrect": n},
        "mean": {"correct": correct, "incorrect": incorrect},
        "auroc": auroc,
    }


def draw_position(pooled, *rows):
    part = {"n": {}, "sentence": {"auroc": {"pooled": pooled}}, "slices": {"position": rows}}
    return draw_slices({"val": part}, "val")[0]


def svg(name="a", text="title"):
    def draw(figure):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=BLUE, marker="o")
        axes.set_xlabel(text)

    return render(name, draw, size=(4, 3), title="A title", description="What it shows.")


def test_a_plot_keeps_its_text_as_text_and_says_what_it_shows():
    elements = Elements(svg(text="share of words"))
    assert "share of words" in elements.texts
    assert {"A title", "What it shows."} <= set(elements.texts)
    assert 'role="img" aria-labelledby="a-title a-description"' in svg()


def test_a_plot_is_the_same_every_time_and_has_no_date_or_address():
    assert svg() == svg()
    assert "http" not in svg()
    assert "metadata" not in svg()


def test_two_plots_of_a_page_share_no_id_and_each_finds_its_own():
    first, second = svg("a"), svg("b")
    assert not set(Elements(first).ids) & set(Elements(second).ids)
    for text in (first, second):
        used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        assert used
        assert used <= set(Elements(text).ids)


def test_colors_of_a_plot_are_variables_of_the_page_with_the_color_itself_to_fall_back_on():
    assert "stroke: var(--blue, #0072b2)" in svg()
    assert "fill: var(--ink, #111111)" in svg()


@pytest.mark.parametrize(
    "text",
    ["</svg><script>hacked()</script>", "-->&<!--", "$\\frac{", "#0072b2 url(#x)", "_x", "日本 😀", "a\x0b\x00b"],
)
def test_names_from_data_are_nothing_but_text(text):
    name = f"{text} long enough to be cut somewhere"
    predictions = [predict("1", ("A.", "incorrect", 0.9), ("B.", "correct", 0.1), generator=name)]
    roc, _ = draw_curves(predictions)
    elements = Elements(roc.svg)
    assert "script" not in elements.tags
    shown = "".join(character if character.isprintable() else " " for character in name)[:23]
    assert any(each.startswith(f"{shown}… (") for each in elements.texts)


def test_lines_differ_in_more_than_color():
    styles = [tuple(map(str, series(index).values())) for index in range(56)]
    assert len({(color, marker) for color, marker, _ in styles}) == 56
    assert all(one[1:] != other[1:] for one, other in pairwise(styles))


def test_the_roc_lists_recall_at_false_positives_from_no_threshold_in_between():
    # scores 0.9 incorrect, 0.8 correct, 0.7 incorrect, 0.1 correct: below 50 % false positives only the first is found
    predictions = [
        predict("1", ("A.", "incorrect", 0.9), ("B.", "correct", 0.8), ("C.", "incorrect", 0.7), ("D.", "correct", 0.1))
    ]
    roc, _ = draw_curves(predictions)
    assert roc.table.rows == [("sd", "0.750", "0.500", "0.500", "0.500", "0.500", "1.000")]


def test_a_generator_of_one_class_has_no_curve():
    roc, _ = draw_curves([*PREDICTIONS, predict("x", ("A.", "correct", 0.5), generator="qwen")])
    assert [row[0] for row in roc.table.rows] == ["llama-4", "sd"]


def test_reliability_lists_its_bins_with_their_counts():
    # four sentences in four bins of one
    _, reliability = draw_curves(
        [predict("1", ("A.", "incorrect", 0.9), ("B.", "correct", 0.2), ("C.", "correct", 0.1), ("D.", "correct", 0.8))]
    )
    assert reliability.table.rows == [
        ("0.100", "0.000", "1"),
        ("0.200", "0.000", "1"),
        ("0.800", "0.000", "1"),
        ("0.900", "1.000", "1"),
    ]
    assert "at most 0.800" in reliability.reading


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ((0.8, 0.8, 0.5), "moves by 0.700: the score follows the position more than the sentence, a position shortcut"),
        ((0.3, 1.0, 0.9), "moves by 0.200: the position is part of the score"),
        ((0.15, 0.9, 0.9), "moves by 0.050: the position plays next to no part"),
    ],
)
def test_scores_that_move_with_the_position_are_told_from_scores_that_move_with_the_label(second, says):
    first = (0.1, 0.1, 0.5) if second[0] == 0.8 else (0.1, 0.9, 0.9)
    assert says in draw_position(0.7, position(0, *first, n=20), position(1, *second, n=20)).reading


def test_positions_weigh_by_their_pairs_of_a_correct_and_an_incorrect_sentence():
    # 2 x 2 pairs and 4 x 4 pairs: AUROC (0.9 * 4 + 0.6 * 16) / 20 = 0.66, gap (0.8 * 4 + 0.3 * 16) / 20 = 0.4
    plot = draw_position(0.7, position(0, 0.1, 0.9, 0.9, n=2), position(1, 0.2, 0.5, 0.6, n=4))
    assert plot.reading == (
        "At the same position, the scores of incorrect and correct sentences differ by +0.400 on average, with an "
        "AUROC of 0.660; over all positions the AUROC is 0.700."
    )


def test_slices_without_a_figure_leave_a_gap_and_a_dash():
    plot = draw_position(None, position(0, 0.1, None, None), position(1, 0.2, 0.8, 0.9))
    assert plot.table.rows[0] == ("1", "10", "10", "0.100", "–", "–")
    assert plot.svg


def test_every_slice_of_real_figures_is_drawn_or_says_why_not():
    plots = {plot.name: plot for plot in draw_slices(judged({"val": PREDICTIONS}), "val")}
    assert {name for name, plot in plots.items() if plot.svg} == {"position", "type", "length", "direction"}
    assert plots["agreement"].reading == "no sentence has two votes or more"


def test_slices_that_were_not_computed_are_said_to_be_missing():
    plots = draw_slices({"val": {"n": {}, "sentence": {}}, "reasons": {"val.slices": "too few"}}, "val")
    assert {(plot.svg, plot.reading) for plot in plots} == {(None, "too few")}


def test_the_types_stand_in_the_order_of_how_many_sentences_they_have():
    plot = draw_slices(judged({"val": [*PREDICTIONS, PREDICTIONS[1]]}), "val")[1]
    assert [row[0] for row in plot.table.rows] == ["Object", "Attribute"]
    assert plot.table.rows[0][1] == "2"


def preference(family):
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": 0.75, "by_generator": {"llama-4": 0.6, "sd": 0.9}}}},
        "detector": {"name": "ours", "family": family},
    }
    table = paper_table(metrics)
    return draw_preference(table.rows, table.generators)


def test_self_preference_is_the_own_family_over_the_mean_of_the_row():
    # mean 0.75; 0.6 / 0.75 = 0.8 and 0.9 / 0.75 = 1.2
    plot = preference("llama")
    assert plot.table.rows == [("ours", "llama", "0.800", "1.200", "0.800")]
    assert "ours (llama) 0.800" in plot.reading


def test_without_a_known_family_self_preference_is_said_to_be_unknown():
    plot = preference(None)
    assert plot.table.rows == [("ours", "not known", "0.800", "1.200", "–")]
    assert "No row's family is known" in plot.reading


def test_a_family_without_a_generator_is_said_to_be_so():
    assert "No generator here is of the family of any row" in preference("qwen").reading


def test_rows_are_compared_with_their_intervals():
    metrics = {
        "all": {"n": {}, "sentence": {"auroc": {"macro": 0.8}}, "ci95": {"sentence.auroc.macro": [0.7, 0.9]}},
        "blind": {"sentence.auroc.macro": 0.5},
        "blank": {"sentence.auroc.macro": None},
    }
    plot = draw_comparison(paper_table(metrics).rows)
    assert plot.table.rows == [
        ("detector", "detector", "0.800", "0.700", "0.900"),
        ("images exchanged", "control", "0.500", "–", "–"),
    ]


@pytest.mark.parametrize(
    "predictions", [[], [predict("x", ("A.", None, 0.5))], [predict("x", ("A.", "correct", "cut"))]]
)
def test_without_judged_sentences_there_are_no_curves_but_a_reason(predictions):
    roc, reliability = draw_curves(predictions)
    assert (roc.svg, reliability.svg) == (None, None)
    assert reliability.reading == "no sentence is both labeled and scored"


def test_generators_that_were_never_seen_stand_beside_those_that_were():
    def part(**by_generator):
        ci95 = {f"sentence.auroc.by_generator.{name}": [x - 0.01, x + 0.02] for name, x in by_generator.items()}
        return {"sentence": {"auroc": {"by_generator": by_generator | {"single": None}}}, "ci95": ci95}

    metrics = {"val": part(a=0.5), "test_seen": part(a=0.97), "test_heldout": part(b=0.9, c=0.75)}
    plot = draw_generators(metrics, "test_heldout")
    assert plot.reading == (
        "AUROC by generator: test_seen 0.970, test_heldout 0.750 to 0.900; the hardest is c (0.750)."
    )
    assert plot.table.rows[-1] == ("c", "test_heldout", "0.750", "0.740", "0.770")
    assert [row[0] for row in plot.table.rows] == ["a", "b", "c"]
    assert draw_generators({}, "all").svg is None


@pytest.mark.parametrize("n_types", [1, 3, 5, 12])
def test_the_title_of_an_axis_is_no_longer_than_a_narrow_plot_is_high(n_types):
    one = {"n": {"incorrect": 3, "correct": 3}, "mean": {}, "auroc": 0.9}
    sketch = sketch_type({"slices": {"type": {f"Type {number}": one for number in range(n_types)}}})
    figure = Figure(figsize=(NARROW, sketch.narrow), layout="constrained")
    sketch.draw(figure)
    figure.draw_without_rendering()
    title = figure.axes[0].yaxis.label.get_window_extent()
    assert title.y0 >= 0
    assert title.y1 <= figure.bbox.height
