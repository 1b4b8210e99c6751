"""Where a report's figures come from: when and how they were made, of which corpus, and what trained the detector."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from halspan.core.captions import Caption
from halspan.data.contents import Contents
from halspan.data.corpus import Corpus
from halspan.reporting.figures import look_up

_PROGRAMS = ("train.py", "evaluate.py", "halspan")
_PACKAGES = ("halspan", "torch", "transformers", "peft", "pytorch-lightning", "bitsandbytes")
_GIT_SECONDS = 10.0
_CORPUS = {"file": "file", "reader": "read as", "commit": "commit"}


def describe_process() -> dict[str, Any]:
    """Describe when and by what something is made, for `config.yaml` and `metrics.json`.

    Returns:
        `date` (UTC, ISO 8601), `command` (null if a launcher started this process), `commit` (of halspan's sources,
        with "-dirty" where files of it were changed; null where they are not in a git repository of their own) and
        `versions` of what is installed.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command_line(sys.argv),
        "commit": find_commit(Path(__file__).resolve()),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def describe_run(corpus: Corpus | None = None, train: Sequence[Caption] = ()) -> dict[str, Any]:
    """Describe how figures are made, for the entry `run` of `metrics.json`.

    Args:
        corpus: what is judged; None where it is no corpus but predictions.
        train: what trained the detector; empty where that is not of this corpus.

    Returns:
        What `describe_process` returns, and where there is a corpus `corpus` with a digest of its captions, labels and
        images, `train` (null if it is not of this corpus) and `left_out`, what the reader could not use by reason.
    """
    made = describe_process()
    if corpus is None:
        return made
    source = {key: value for key, value in corpus.source.items() if key != "path"}
    if "path" in corpus.source:
        source["file"] = Path(corpus.source["path"]).name  # where it lies is in the command, if it was said
    digest = Contents.of_corpus(corpus).digest
    return made | {
        "corpus": {"name": corpus.name, "captions": len(corpus.captions), "digest": digest, **source},
        "train": _count(train) if train else None,
        "left_out": dict(corpus.skipped),
    }


def origin_lines(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a page says at its top about where its figures come from: a name and a text for each known fact.

    Args:
        metrics: what `metrics.json` holds.
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


def _command_line(arguments: Sequence[str]) -> str | None:
    program = Path(arguments[0]).name
    if program not in _PROGRAMS:
        return None
    start = ["python", program] if program.endswith(".py") else [program]
    # for a shell the same, but no reader of configurations takes it for an interpolation
    return shlex.join([*start, *arguments[1:]]).replace("${", "$''{")


def find_commit(file: Path) -> str | None:
    """Find the commit of the git repository that a file belongs to.

    Returns:
        It, with "-dirty" where files of the repository were changed; None where the file is in none (such as one of an
        environment inside somebody's project), or there is no git.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    is_tracked = ("ls-files", "--error-unmatch", file.name)
    commit = ("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    said = ""
    for command in (is_tracked, commit):
        try:
            done = subprocess.run(
                ["git", "-C", file.parent, *command],
                env=clean,
                capture_output=True,
                text=True,
                timeout=_GIT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        said = done.stdout.strip()
    return said


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _count(captions: Sequence[Caption]) -> dict[str, Any]:
    return {
        "captions": len(captions),
        "images": len({caption.image for caption in captions}),
        "sentences": sum(len(caption.sentences) for caption in captions),
        "generators": sorted({caption.generator for caption in captions}),
    }


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
