"""Matplotlib figures as SVG in a page: text stays text, colors follow the page, ids are unique per figure."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

INK, RULE = "#111111", "#b0b0b0"  # not black, which matplotlib omits as the default
# Okabe & Ito 2008. The page may change one of them (yellow on white) through its variable.
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, YELLOW = "#e69f00", "#56b4e9", "#f0e442"
_VARIABLES = {
    INK: "ink",
    RULE: "rule",
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    PURPLE: "purple",
    ORANGE: "orange",
    SKY: "sky",
    YELLOW: "yellow",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are data, in which a dollar sign is not markup
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "figure.facecolor": "none",
    "path.simplify_threshold": 0.5,  # pixels; a step curve of ten thousand sentences needs no more
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PIXELS_PER_INCH = 96


def render(
    name: str, draw: Callable[[Figure], None], *, size: tuple[float, float], title: str, description: str
) -> Markup:
    """Draw a figure and return it as an `<svg>` element.

    Args:
        name: Prefix of every id in the element, so that figures of one page share no ids.
        draw: Function that fills an empty figure.
        size: Width and height, in inches.
        title: Title for screen readers.
        description: Description in one sentence.
    """
    # The salt makes ids repeatable. Fonts are the reader's, so a glyph that this machine lacks does not matter.
    style: Any = _STYLE | {"svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=_NO_METADATA)
    return _embed(file.getvalue(), name, size, title, description)


def _embed(text: str, name: str, size: tuple[float, float], title: str, description: str) -> Markup:
    """Remove what only a file of its own needs (prologue, style sheet, fonts), and make ids unique."""
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith("}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _adapt(_local(key), value, name) for key, value in element.attrib.items()}
        element.tail = None
        if element.tag != "text":
            element.text = None
    width, height = (round(length * _PIXELS_PER_INCH) for length in size)
    root.attrib = {
        "class": "plot",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-description",
        "width": str(width),
        "height": str(height),
        "viewBox": root.attrib["viewBox"],
    }
    for tag, part, content in (("desc", "description", description), ("title", "title", title)):
        child = ElementTree.Element(tag, id=f"{name}-{part}")
        child.text = content
        root.insert(0, child)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escapes the content


def _local(name: str) -> str:
    """Remove the XML namespace, which an `<svg>` element in HTML does not need."""
    return name.rpartition("}")[2]


def _adapt(key: str, value: str, name: str) -> str:
    if key == "style":
        value = re.sub(r"font-family:[^;]*;? ?", "", value)
        value = re.sub("#[0-9a-f]{6}", lambda found: _variable(found[0]), value)
    elif key == "id":
        return f"{name}-{value}"
    return re.sub(r"(url\(#|^#)", rf"\g<1>{name}-", value)


def _variable(color: str) -> str:
    return f"var(--{_VARIABLES[color]}, {color})" if color in _VARIABLES else color
