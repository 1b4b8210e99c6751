"""The origin of figures: when and how they were made, from which corpus, and what trained the detector."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import halspan
from halspan.core.captions import Caption
from halspan.data.corpus import Corpus
from halspan.data.split.contents import Contents

_PROGRAMS = ("train.py", "evaluate.py", "halspan")
_PACKAGES = ("halspan", "torch", "transformers", "peft", "pytorch-lightning", "bitsandbytes")
_APPLICATION = Path(halspan.__file__).parent / "app"
_GIT_SECONDS = 10.0


def describe_process() -> dict[str, Any]:
    """Describe when and with which program something is made, for `config.yaml` and `metrics.json`.

    Returns:
        `date` (UTC, ISO 8601), `command` (null if a launcher started this process), `commit` (of halspan's sources,
        with "-dirty" if files were changed; null if they are not in a git repository of their own) and `versions` of
        the installed packages.
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
        corpus: Corpus to judge on; None where predictions are judged without one.
        train: Captions that trained the detector; empty where they are not of this corpus.

    Returns:
        The result of `describe_process`. With a corpus, also `corpus` with a digest of its captions, labels and images,
        `train` (null if it is not of this corpus), and `left_out`, the counts of unusable records by reason.
    """
    made = describe_process()
    if corpus is None:
        return made
    source = {key: value for key, value in corpus.source.items() if key != "path"}
    if "path" in corpus.source:
        source["file"] = Path(corpus.source["path"]).name  # without its folder, which the command names if it was given
    digest = Contents.of_corpus(corpus).digest
    return made | {
        "corpus": {"name": corpus.name, "captions": len(corpus.captions), "digest": digest, **source},
        "train": _count(train) if train else None,
        "left_out": dict(corpus.skipped),
    }


def _command_line(arguments: Sequence[str]) -> str | None:
    program = Path(arguments[0])
    if program.name not in _PROGRAMS:
        return None
    start = ["python", program.name] if program.suffix == ".py" else [program.name]
    if program.parent == _APPLICATION:  # where `halspan.cli.application` points, so that processes can be started again
        start = ["halspan", program.stem]
    # for a shell the same, but no reader of configurations takes it for an interpolation
    return shlex.join([*start, *arguments[1:]]).replace("${", "$''{")


def find_commit(file: Path) -> str | None:
    """Return the commit of the git repository that a file belongs to.

    Returns:
        The commit, with "-dirty" if files of the repository were changed; None if the repository does not track the
        file (as in a virtual environment inside another project), or git is not installed.
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
