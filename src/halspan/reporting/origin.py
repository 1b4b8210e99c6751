"""The section of a report on the origin of its figures."""

from collections.abc import Iterator, Mapping
from typing import Any

from halspan.reporting.figures import look_up

_CORPUS = {"file": "file", "reader": "read as", "commit": "commit"}


def origin_lines(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a name and a text for each known fact about the origin of a page's figures.

    Args:
        metrics: Content of `metrics.json`.
    """
    run = metrics.get("run") or {}
    if date := run.get("date"):
        yield "Date", f"{date[:16].replace('T', ' ')} UTC"
    if command := run.get("command"):
        yield "Command", command.replace("$''{", "${")
    if versions := run.get("versions"):
        yield "Software", _read_software(versions, run.get("commit"))
    if corpus := run.get("corpus"):
        yield "Corpus", _read_corpus(corpus)
        yield "Trained on", _read_train(run.get("train"))
        yield "Left out", _read_left_out(metrics)
    if halved := run.get("halved_passes"):
        yield "Memory", f"too short for a pass {halved:,} time{'s' * (halved > 1)} in training: passes were halved"


def _read_software(versions: Mapping[str, str], commit: str | None) -> str:
    names = [f"{name} {number}" for name, number in versions.items()]
    return ", ".join([*names, *([f"commit {commit}"] if commit else [])])


def _read_corpus(corpus: Mapping[str, Any]) -> str:
    facts = [f"{title} {corpus[key]}" for key, title in _CORPUS.items() if key in corpus]
    return ", ".join([f"{corpus['name']}: {corpus['captions']:,} captions", *facts])


def _read_train(train: Mapping[str, Any] | None) -> str:
    if train is None:
        return "no caption of this corpus"
    counts = ", ".join(f"{train[name]:,} {name}" for name in ("captions", "images", "sentences"))
    return f"{counts}; {', '.join(train['generators'])}"


def _read_left_out(metrics: Mapping[str, Any]) -> str:
    by_reader = [f"{count:,} {reason}" for reason, count in (look_up(metrics, "run", "left_out") or {}).items()]
    left_out = look_up(metrics, "split", "left_out") or ()
    by_split = [f"{sum(each['by_generator'].values()):,} captions: {each['reason']}" for each in left_out]
    return "; ".join(by_reader + by_split) or "nothing"
