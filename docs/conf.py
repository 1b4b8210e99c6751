"""Configuration of Sphinx, which builds the site: `make docs`."""

from typing import Any

import halspan

project = "halspan"
author = "the authors of halspan"
release = version = halspan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["images"]
default_role = "code"  # single backticks in docstrings are code
language = "en"
highlight_language = "none"  # of fences that name none: commands and their output

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = False
napoleon_attr_annotations = False  # the types of keys stand in the YAML files, as values and comments
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"halspan {release}"
html_copy_source = False
html_show_copyright = False
pygments_style = "default"


def hide_signature(_app: Any, what: str, _name: str, thing: Any, *_: Any) -> tuple[str, None] | None:
    """Leave out the signature of a spec: its keys stand in the YAML file beside it, and their meaning below it."""
    return ("", None) if what == "class" and hasattr(thing, "__pydantic_fields__") else None


def setup(app: Any) -> None:
    """Connect `hide_signature` to autodoc."""
    app.connect("autodoc-process-signature", hide_signature)
