"""The model card of a detector: its description, figures, limits and use."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from halspan.core.errors import ModelError
from halspan.core.files import write_text
from halspan.core.text.printable import printable
from halspan.models.folder.record import DetectorRecord

CARD = "README.md"

_PARTS = {
    "val": "validation (tuned on it)",
    "test_seen": "test, generators seen in training",
    "test_heldout": "test, generators never seen",
}
_COUNTS = {
    "captions": "captions",
    "sentences": "sentences",
    "images": "images",
    "sampled_from": "captions in all, of which the former were chosen",
}
_FIGURES = {
    "sentence.auroc.macro": "sentence AUROC, mean of generators",
    "sentence.auprc": "sentence AUPRC",
    "sentence.f1": "sentence F1",
    "sentence.brier": "Brier score (lower is better)",
    "sentence.ece": "calibration error (lower is better)",
    "span.char.f1": "character F1",
    "span.typed_char_f1": "character F1 with the right type",
}

_METRIC_IDS = {
    "sentence.auroc.macro": "roc_auc",
    "sentence.auprc": "average_precision",
    "sentence.f1": "f1",
    "sentence.brier": "brier_score",
    "sentence.ece": "expected_calibration_error",
    "span.char.f1": "f1",
    "span.typed_char_f1": "f1",
}
"""The hub's names of these figures."""


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Select from `metrics.json` the figures that go with a detector.

    Returns:
        Counts, figures and their 95 % intervals by dotted path, for each part and for the parts with exchanged images.
    """
    parts = {part: _of_part(metrics[part]) for part in _PARTS if part in metrics}
    blind = {key: metrics.get("blind", {}).get(key) for key in ("sentence.auroc.macro", "span.char.f1")}
    ci95 = {path: limits for path, limits in metrics.get("blind", {}).get("ci95", {}).items() if path in blind}
    return parts | ({"blind": {"figures": blind, "ci95": ci95}} if "blind" in metrics else {})


def write_card(folder: Path, record: DetectorRecord) -> None:
    """Write `README.md`, with the front matter that the hub reads."""
    write_text(folder / CARD, str(_card(record)))


def check_card(record: DetectorRecord) -> None:
    """Require that the card of a record can be written.

    Raises:
        ModelError: Its figures, origin or check do not have the form of a detector's.
    """
    try:
        _card(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, YAMLError) as error:
        raise ModelError(
            f"{record.name}: figures, origin or check of detector.json are not what a detector has "
            f"({type(error).__name__}: {' '.join(str(error).split())[:100]}); export the detector again"
        ) from None


def _of_part(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = {path: _follow(metrics, path) for path in _FIGURES}
    ci95 = {path: limits for path, limits in metrics.get("ci95", {}).items() if path in _FIGURES}
    n = {name: metrics["n"][name] for name in _COUNTS if name in metrics["n"]}
    return {"n": n, "figures": figures, "ci95": ci95}


def _follow(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _card(record: DetectorRecord) -> ModelCard:
    text = "\n".join(_body(record))
    return ModelCard(f"---\n{_front_matter(record).to_yaml()}\n---\n\n{text}\n")  # reads the front matter again


def _front_matter(record: DetectorRecord) -> ModelCardData:
    backbone = record.backbone
    is_of_hub = backbone.commit is not None
    relation = "finetune" if record.kind == "merged" else "adapter"
    return ModelCardData(
        base_model=printable(backbone.name) if is_of_hub else None,
        base_model_relation=relation if is_of_hub else None,
        library_name="halspan",
        license="unknown",
        tags=["hallucination-detection", "image-captioning", "vision-language", printable(backbone.model_type)],
        model_name=printable(record.name),
        eval_results=None if backbone.random_weights else list(_results(record)) or None,
    )


def _results(record: DetectorRecord) -> Iterator[EvalResult]:
    """Yield the figures of the test parts in the form of the hub's `model-index`."""
    source = record.origin.get("Data") or {}
    reader = printable(str(source.get("reader", "unknown")))
    for part in ("test_seen", "test_heldout"):
        for path, value in record.figures.get(part, {}).get("figures", {}).items():
            if value is not None:
                yield EvalResult(
                    task_type="image-text-to-text",
                    task_name="Hallucination detection in image captions",
                    dataset_type=reader,
                    dataset_name=printable(str(source.get("path", reader))),
                    dataset_split=part,
                    metric_type=_METRIC_IDS[path],
                    metric_name=_FIGURES[path],
                    metric_value=round(float(value), 6),
                )


def _body(record: DetectorRecord) -> Iterator[str]:
    yield f"# {_plain(record.name)}"
    yield ""
    if record.backbone.random_weights:
        yield "**The backbone has random weights: built for trials; its scores mean nothing.**"
        yield ""
    yield "Finds hallucinations in texts about images: P(incorrect) of each sentence, and the wrong words with types."
    yield ""
    yield from _use()
    yield ""
    yield from _measured(record.figures)
    yield ""
    yield from _about(record)
    yield ""
    yield from _limits(record)


def _use() -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "from halspan import Detector  # pip install halspan"
    yield 'Detector.from_pretrained("PATH OR HUB ID").predict("photo.jpg", "A man rides a red horse. He wears a hat.")'
    yield "```"
    yield ""
    yield "A sentence or word without a score is listed in `unscored`; that is not a verdict."


def _measured(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "## Measured"
    yield ""
    parts = [part for part in _PARTS if part in figures]
    if not parts:
        yield "Nothing was measured."
        return
    for part in parts:
        n = ", ".join(f"{count:,} {_COUNTS.get(name, name)}" for name, count in figures[part]["n"].items())
        yield f"- `{part}`: {_PARTS[part]}; {n}"
    yield ""
    columns = [*parts, *(["blind"] if "blind" in figures else [])]
    yield "| | " + " | ".join(f"`{part}`" for part in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for path, title in _FIGURES.items():
        yield f"| {title} | " + " | ".join(_figure(figures[part], path) for part in columns) + " |"
    yield ""
    yield "In brackets: 95 % intervals, by a bootstrap over images."
    if "blind" in figures:
        yield "`blind`: `test_heldout` with images exchanged between captions; 0.5 there means that the image decides."


def _figure(part: Mapping[str, Any], path: str) -> str:
    value, limits = part["figures"].get(path), part["ci95"].get(path)
    if value is None:
        return ""
    return f"{value:.3f}" + (f" ({limits[0]:.3f} to {limits[1]:.3f})" if limits else "")


def _about(record: DetectorRecord) -> Iterator[str]:
    backbone, model = record.backbone, record.model
    at = f" at commit `{backbone.commit}`" if backbone.commit else ", which comes along"
    yield "## What it is"
    yield ""
    yield f"- Backbone: `{_plain(backbone.name)}` ({backbone.model_type}){at}"
    if record.kind == "merged":
        yield "- Adapters (LoRA) are merged into the backbone's weights"
    elif model["lora"]:
        lora = model["lora"]
        yield f"- Adapters (LoRA): rank {lora['r']} on {', '.join(f'`{_plain(target)}`' for target in lora['targets'])}"
    if heads := [f"`{_plain(model[key]['name'])}`" for key in ("token_head", "sentence_head") if key in model]:
        yield f"- Heads: {' for tokens, '.join(heads)} for sentences"
    if record.packages:
        yield f"- Needs, besides halspan: {', '.join(map(_plain, record.packages))}"
    yield f"- Types: {', '.join(_plain(name) for name in record.taxonomy)}"
    yield f"- A caption's words see of it: `{model['context']}`; window: {model['max_tokens']:,} tokens with the image"
    if record.scoring is not None:
        yield f"- Judged in {record.scoring.dtype}; longer texts than the window read in {record.scoring.window} ones"
    yield f"- Sentences are called incorrect from P(incorrect) {record.tuned['threshold']:.3f} on (`tuned`)"
    yield from (f"- {title}: {_words(value)}" for title, value in record.origin.items() if value)
    if (check := record.check) is not None:
        difference, within = check["largest_difference"], check["tolerance"]
        yield (
            f"- Checked: scores of {check['captions']} captions, by this folder in a new process and by the detector "
            f"that it was made from, differ by {difference:.1e} at most (allowed: {within:.0e})"
        )


def _limits(record: DetectorRecord) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- Figures hold for the data above; other images, generators and languages have to be measured first."
    yield "- It compares a text with its image. What the image does not show, it cannot know."
    yield "- Probabilities were calibrated on the validation part alone."
    if record.model["quantize"]:
        yield f"- The backbone is loaded in 4 bits ({record.model['quantize']}), for which bitsandbytes is needed."


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(key)} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return _plain(value)


def _plain(value: Any) -> str:
    """Escape text from data, so that it is neither read as Markdown nor steers a terminal."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>#|" else character for character in printable(str(value)))
