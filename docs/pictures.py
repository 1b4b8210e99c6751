"""Make the pictures of README and of the site from a run: `python docs/pictures.py checkpoints/shapes`.

The captions are the first `PER_GENERATOR` of each held-out generator in `predictions/test_heldout.jsonl`, whatever the
detector made of them. Needs `chromium`.
"""

import argparse
import base64
import shutil
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright

from halspan.core.captions import Prediction
from halspan.data.streams.predictions import read_predictions

IMAGES = Path(__file__).parent / "images"
PER_GENERATOR = 2
WIDTH = 760  # CSS pixels
STYLE = """
body { margin: 0; padding: 16px; background: #fff; color: #1f2328;
  font: 15px/1.75 system-ui, "DejaVu Sans", sans-serif }
article { display: flex; gap: 16px; padding: 10px 0; border-bottom: 1px solid #d8dee4 }
img { width: 112px; height: 112px; image-rendering: pixelated; border-radius: 4px; flex: none }
p { margin: 0 } .by { color: #59636e; font-size: 13px }
mark { background: #ffd0cc; color: inherit; border-radius: 3px; padding: 1px 3px }
mark small { color: #a40e26; margin-left: 4px } u { text-decoration: underline 2px #1a7f37; text-underline-offset: 4px }
sup { color: #59636e; font-size: 11px; margin-left: 2px } sup.wrong { color: #a40e26; font-weight: 600 }
footer { padding-top: 10px; color: #59636e; font-size: 13px }
"""
LEGEND = (
    "<footer><mark>marked by the detector<small>type</small></mark> &nbsp; <u>marked by the annotator</u> &nbsp; "
    "P(incorrect): <sup>0.08</sup> below, <sup class='wrong'>0.97</sup> from the threshold on</footer>"
)


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of the shapes recipe")
    run: Path = parser.parse_args().run
    articles = "".join(map(_article, choose(read_predictions(run / "predictions" / "test_heldout.jsonl"))))
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 100}, device_scale_factor=2)
        page.set_content(f"<!doctype html><style>{STYLE}</style>{articles}{LEGEND}")
        page.screenshot(path=IMAGES / "captions.png", full_page=True)
        page = browser.new_page(viewport={"width": 1100, "height": 1600})
        page.goto((run / "report.html").resolve().as_uri())
        top, end = (page.locator(place).bounding_box() for place in ("#headline", "#headline dl.counts"))
        if top is None or end is None:
            raise SystemExit("the report has no headline")
        height = end["y"] + end["height"] - top["y"]
        clip = FloatRect(x=0, y=top["y"], width=1100, height=height)
        page.screenshot(path=IMAGES / "report.png", clip=clip)
        browser.close()


def choose(predictions: list[Prediction]) -> Iterator[Prediction]:
    """Yield the first predictions of each generator."""
    by_generator: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        by_generator[prediction.caption.generator].append(prediction)
    for name in sorted(by_generator):
        yield from by_generator[name][:PER_GENERATOR]


def _article(prediction: Prediction) -> str:
    caption = prediction.caption
    picture = base64.b64encode(Path(caption.image).read_bytes()).decode()
    return (
        f'<article><img src="data:image/png;base64,{picture}"><div>'
        f'<p class="by">{escape(caption.generator)}</p><p>{"".join(_pieces(prediction))}</p></div></article>'
    )


def _pieces(prediction: Prediction) -> Iterator[str]:
    """Yield the text in pieces between the ends of spans and sentences, with the marks of each."""
    caption = prediction.caption
    scores = {sentence.end: score for sentence, score in zip(caption.sentences, prediction.sentences, strict=True)}
    ends = {0, len(caption.text), *scores}
    ends |= {end for span in prediction.spans for end in (span.start, span.end)}
    ends |= {end for span in caption.spans for end in (span.start, span.end)}
    for start, end in pairwise(sorted(ends)):
        piece = escape(caption.text[start:end])
        if any(span.start <= start < span.end for span in caption.spans):
            piece = f"<u>{piece}</u>"
        if marked := next((span for span in prediction.spans if span.start <= start < span.end), None):
            kind = f"<small>{escape(marked.type or '')}</small>" if end == marked.end else ""
            piece = f"<mark>{piece}{kind}</mark>"
        yield piece
        if end in scores and (p := scores[end].p_incorrect) is not None:
            is_wrong = p >= (prediction.threshold if prediction.threshold is not None else 0.5)
            yield f"<sup{' class=wrong' * is_wrong}>{p:.2f}</sup>"


if __name__ == "__main__":
    main()
