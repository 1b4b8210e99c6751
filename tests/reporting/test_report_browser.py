"""The report in a real browser: Debian's Chromium, driven by Playwright; skipped where one of them is missing."""

import random
import re
import shutil
from urllib.parse import quote

import pytest
from small_report import judged, paint, predict

from halspan.core.captions import Prediction
from halspan.reporting.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (halspan[dev])")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
HOSTILE = "</script><script>hacked = 1</script><!-- <img src=x onerror='hacked = 2'> \u2028 \"'&amp; 😀"


def make_predictions(n: int) -> list[Prediction]:
    """Make captions of which every fourth has a missed sentence, from two generators and with two types."""
    draw = random.Random(0)
    predictions = []
    for index in range(n):
        missed = index % 4 == 0
        type_ = ("Object", "Number")[index % 2]
        predictions.append(
            predict(
                f"caption-{index:04}",
                (f"There is a red thing number {index}.", "incorrect", 0.2 if missed else 0.8 + 0.1 * draw.random()),
                ("It stands on a wooden table beside a window.", "correct", 0.1),
                generator=("plain", "sd")[index % 2],
                image=f"{index}.png",
                spans=[(11, 20, type_)],
                found=[] if missed else [(11, 14, type_, 0.7)],
            )
        )
    return predictions


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a report with 2,000 captions in two parts; those of the main part come first in the page."""
    folder = tmp_path_factory.mktemp("large")
    predictions = make_predictions(2000)
    parts = {"val": predictions[1500:], "test_heldout": predictions[:1500]}
    write_report(folder, title="Large", metrics=judged(parts), parts=parts, read_image=paint)
    return folder / "report.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a report of which every name and text tries to be something else."""
    folder = tmp_path_factory.mktemp("hostile")
    predictions = [
        predict(
            HOSTILE,
            (HOSTILE, "incorrect", 0.9),
            generator=HOSTILE,
            spans=[(0, 9, HOSTILE)],
            found=[(4, 20, "x" * 99, 1)],
        ),
        predict("plain", (HOSTILE, "correct", 0.1), generator=HOSTILE),
        predict("long", ("w" * 900, "correct", 0.2), generator="g" * 300, found=[(3, 800, HOSTILE, 0.5)]),
        predict("rtl", ("שלום עולם טוב", "correct", "missing"), image=f"missing{HOSTILE}", generator=HOSTILE),
    ]
    metrics = judged(
        {"val": predictions},
        detector={"name": HOSTILE, "backbone": HOSTILE, "family": HOSTILE},
        baselines={HOSTILE: {"title": HOSTILE, "sentence.auroc.macro": 0.5}},
        reasons={HOSTILE: HOSTILE},
    )
    write_report(folder, title=HOSTILE, metrics=metrics, parts={"val": predictions}, read_image=paint)
    return folder / "report.html"


@pytest.fixture
def open_page(browser):
    """Open a report, and fail the test if the page complains or asks for anything."""
    contexts, complaints = [], []

    def open_page(path, fragment="", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        page.goto(f"{path.as_uri()}{fragment}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def count(page):
    return page.locator("#count").inner_text()


def wait_for_count(page, n):
    """Wait until typing has had its effect."""
    sync_api.expect(page.locator("#count")).to_have_text(f"{n} of 2,000 captions")


def first_card(page):
    return page.locator(".card h3").first.inner_text()


def focused_card(page):
    return page.evaluate("document.activeElement.closest('.card')?.querySelector('h3').textContent")


def test_a_report_opens_from_disk_and_shows_its_captions(open_page, large):
    page = open_page(large)
    assert count(page) == "2,000 of 2,000 captions"
    assert page.locator(".card").count() == 24
    assert page.locator("svg.plot").count() >= 6


def test_a_script_in_a_text_does_not_run_and_is_shown(open_page, hostile):
    page = open_page(hostile)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("script").count() == 2
    page.select_option("[name=sort]", "file")
    assert page.locator(".card h3").first.text_content() == HOSTILE
    assert page.locator(".card .text").nth(1).text_content() == HOSTILE


def test_hostile_names_work_as_filters(open_page, hostile):
    page = open_page(hostile)
    page.select_option("[name=generator]", HOSTILE)
    assert count(page) == "3 of 4 captions"
    page.reload()
    assert count(page) == "3 of 4 captions"


@pytest.mark.parametrize("width", [360, 1400])
def test_no_text_makes_the_page_wider_than_the_window(open_page, hostile, width):
    page = open_page(hostile, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """Return a report of a detector beside its controls and baselines, with names as people give them."""
    folder = tmp_path_factory.mktemp("controlled")
    predictions = make_predictions(40)
    row = {"sentence.auroc.macro": 0.6, "sentence.auroc.by_generator": {"plain": 0.6, "sd": 0.6}}
    metrics = judged(
        {"test_heldout": predictions},
        detector={"name": "llama4_lora-seed=1", "family": "llama"},
        blind=row | {"title": "images exchanged"},
        baselines={"bow": row | {"title": "BAG OF WORDS WITHOUT ORDER"}},
    )
    write_report(folder, title="R", metrics=metrics, parts={"test_heldout": predictions}, read_image=paint)
    return folder / "report.html"


LINES_OF_WORDS = """() => [...document.querySelectorAll("table tr > th:first-child")].flatMap((cell) => {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  const broken = [];
  for (let node; (node = walker.nextNode()); ) {
    for (const word of node.textContent.matchAll(/[^\\s-]+-?/g)) {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) broken.push(word[0]);
    }
  }
  return broken;
})"""


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_word_of_a_first_column_is_broken(open_page, controlled, width):
    page = open_page(controlled, viewport={"width": width, "height": 800})
    assert page.evaluate(LINES_OF_WORDS) == []


@pytest.mark.parametrize(("width", "kind"), [(390, ".only-narrow"), (1280, ".only-wide")])
def test_every_point_of_the_control_plot_is_in_sight(open_page, controlled, width, kind):
    page = open_page(controlled, viewport={"width": width, "height": 800})
    shown = page.locator("#figure-comparison svg.plot").locator("visible=true")
    assert shown.count() == 1
    box = page.locator(f"#figure-comparison {kind} svg.plot").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert "llama4_lora-seed=1" in shown.text_content()
    scale = box["width"] / float(shown.get_attribute("width"))
    assert scale > 0.9  # its text is as large as that of the page


CUT_TEXTS = """() => [...document.querySelectorAll("svg.plot")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1);
  }).map((text) => text.textContent);
})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_text_of_a_plot_is_cut(open_page, controlled, width):
    page = open_page(controlled, viewport={"width": width, "height": 800})
    assert page.evaluate(CUT_TEXTS) == []


def test_first_columns_stay_when_a_table_is_scrolled(open_page, controlled):
    page = open_page(controlled, viewport={"width": 320, "height": 800})
    table = page.locator("table.paper")
    table.evaluate("node => (node.parentElement.scrollLeft = 60)")
    assert table.locator("tbody th").first.bounding_box()["x"] == pytest.approx(20, abs=1)  # the page's margin


def test_text_that_is_written_from_right_to_left_stays_so(open_page, hostile):
    page = open_page(hostile, f"#gallery&search={quote('עולם')}")
    assert page.locator(".card .text").evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert "unscored: missing" in page.locator(".card .score").inner_text()
    assert "does not exist" in page.locator(".card .broken").inner_text()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("part", "val", 500),
        ("generator", "sd", 1000),
        ("type", "Number", 1000),
        ("outcome", "missed", 500),
        ("outcome", "right", 1500),
        ("outcome", "words_missed", 500),
        ("outcome", "false", 0),
    ],
)
def test_a_choice_filters_2000_captions(open_page, large, name, value, shown):
    page = open_page(large)
    page.select_option(f"[name={name}]", value)
    assert count(page) == f"{shown:,} of 2,000 captions"
    assert page.locator(".card").count() == min(24, shown)


def test_filters_add_up_and_reset_brings_everything_back(open_page, large):
    page = open_page(large)
    page.select_option("[name=part]", "val")
    page.select_option("[name=outcome]", "missed")  # every fourth, all from the first generator
    page.select_option("[name=generator]", "plain")
    assert count(page) == "125 of 2,000 captions"
    page.fill("[name=search]", "NUMBER 15")  # 1500 to 1596
    wait_for_count(page, "25")
    page.select_option("[name=generator]", "sd")
    assert page.locator(".empty").inner_text() == "No caption passes these filters."
    page.click("button[type=reset]")
    wait_for_count(page, "2,000")
    assert page.input_value("[name=search]") == ""


def test_the_highest_score_of_a_caption_has_a_range(open_page, large):
    page = open_page(large)
    page.fill("[name=high]", "0.5")
    wait_for_count(page, "500")
    page.fill("[name=low]", "0.3")
    wait_for_count(page, "0")


def test_the_most_wrong_captions_of_the_main_part_come_first(open_page, large):
    page = open_page(large)
    assert page.input_value("[name=sort]") == "wrong"
    assert page.locator(".card h3").all_inner_texts()[:3] == ["caption-0000", "caption-0004", "caption-0008"]
    assert page.locator(".sentence.missed").count() == 24


def test_captions_can_be_ordered(open_page, large):
    page = open_page(large)
    page.select_option("[name=sort]", "highest")
    scores = [
        float(re.search(r"[\d.]+", text)[0]) for text in page.locator(".sentence:first-child .score").all_inner_texts()
    ]
    assert scores == sorted(scores, reverse=True)
    page.select_option("[name=sort]", "file")
    assert page.locator(".card h3").all_inner_texts()[:2] == ["caption-0000", "caption-0001"]


def test_the_address_keeps_a_view(open_page, large):
    page = open_page(large)
    page.select_option("[name=outcome]", "missed")
    page.click("#next")
    assert page.locator("#page").inner_text() == "page 2 of 21"
    fragment = page.evaluate("location.hash")
    other = open_page(large, fragment)
    assert count(other) == "500 of 2,000 captions"
    assert other.locator("#page").inner_text() == "page 2 of 21"
    assert first_card(other) == first_card(page)


def test_an_address_with_nonsense_shows_everything(open_page, large):
    page = open_page(large, "#gallery&part=nowhere&low=x&page=-3&sort=bogus&__proto__=1")
    assert count(page) == "2,000 of 2,000 captions"


def test_keys_move_through_cards_pages_and_search(open_page, large):
    page = open_page(large, "#gallery&sort=file")
    page.keyboard.press("j")
    assert focused_card(page) == "caption-0000"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert focused_card(page) == "caption-0002"
    page.keyboard.press("k")
    assert focused_card(page) == "caption-0001"
    page.keyboard.press("n")
    assert focused_card(page) == "caption-0024"
    page.keyboard.press("k")  # from the first card of a page to the last of the one before
    assert focused_card(page) == "caption-0023"
    page.keyboard.press("/")
    page.keyboard.type("number 77.")
    wait_for_count(page, "1")
    page.keyboard.press("Escape")
    assert count(page) == "2,000 of 2,000 captions"


def test_letters_typed_into_the_search_are_no_commands(open_page, large):
    page = open_page(large)
    page.click("[name=search]")
    page.keyboard.type("jkn/p")
    assert page.input_value("[name=search]") == "jkn/p"


def test_single_keys_can_be_turned_off(open_page, large):
    page = open_page(large)
    page.click(".help summary")
    page.uncheck("#keys")
    page.keyboard.press("j")
    assert focused_card(page) is None


def test_everything_in_the_gallery_is_reached_by_tab(open_page, large):
    page = open_page(large)
    page.focus("[name=part]")
    seen = []
    for _ in range(13):
        seen.append(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert seen[:4] == ["part", "generator", "type", "outcome"]
    assert {"low", "high", "search", "sort", "BUTTON", "SUMMARY", "ARTICLE"} <= set(seen)


def test_a_focused_card_can_be_seen(open_page, large):
    page = open_page(large)
    page.keyboard.press("j")
    assert page.locator(".card").first.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


CONTRAST = """() => {
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)" && !color.startsWith("color(")) return color;
    }
  };
  let worst = [99, ""];
  for (const node of document.querySelectorAll("body *:not(script, option, title, desc)")) {
    const text = [...node.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text.length || node.disabled || node.closest("details:not([open])")) continue;
    const color = node.ownerSVGElement ? getComputedStyle(node).fill : getComputedStyle(node).color;
    const [a, b] = [luminance(color), luminance(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, `${node.tagName} ${text[0].textContent.slice(0, 40)}`];
  }
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(open_page, large, scheme):
    page = open_page(large, "#gallery&sort=wrong", color_scheme=scheme)
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where


def test_dark_mode_turns_page_and_plots(open_page, large):
    looks = []
    for scheme in ("light", "dark"):
        page = open_page(large, color_scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        looks.append((ground, page.locator("svg.plot text").first.evaluate("node => getComputedStyle(node).fill")))
    light, dark = looks
    assert light[0] == "rgb(255, 255, 255)"
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_the_table_can_be_saved(open_page, large):
    page = open_page(large)
    with page.expect_download() as download:
        page.click("a[download='table.csv']")
    assert download.value.suggested_filename == "table.csv"
    assert download.value.path().read_text() == (large.parent / "table.csv").read_text()
