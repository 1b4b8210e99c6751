"""Templates of the pages that halspan writes."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from halspan.reporting.figures import show


def build_environment() -> Environment:
    """Return the environment of the templates; texts are escaped, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("halspan.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = show
    return environment


def read_template(name: str) -> str:
    """Return the text of a file beside the templates, such as their style."""
    return (resources.files("halspan.reporting") / "templates" / name).read_text(encoding="utf-8")
