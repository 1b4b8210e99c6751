"""The reader of AlignBench (arXiv 2511.20515) and of corpora with its columns; one row is one sentence."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from halspan.core.captions import Caption, Direction, Sentence, Span
from halspan.core.errors import DataError
from halspan.data.corpus import (
    MOST_NAMED,
    Corpus,
    OnProblem,
    Share,
    Skips,
    find_corpus_file,
    find_image_root,
    join_sentences,
    keep_inside,
    keep_with_images,
)
from halspan.data.readers.alignbench_images import ImageFinder, find_addresses
from halspan.data.readers.alignbench_rows import ImageReference, Row, read_row, read_source
from halspan.data.readers.error_words import Match, match_words
from halspan.data.readers.jsonl import line_of, read_objects
from halspan.data.readers.protocol import Sample

logger = logging.getLogger(__name__)

HUB_DATASET = "omron-sinicx/AlignBench"
TEXT_TO_IMAGE_MODELS = ("sd", "gpt4o-imagen")
# Below this share of words found in their sentences, the form was probably misread; annotators do not mistype so often.
MIN_MATCHED = 0.5


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AlignBench:
    """AlignBench from the Hugging Face hub, or a corpus in its columns from a file.

    Attributes:
        path: The file, or a folder with `halcap_bench.jsonl` or one other `*.jsonl`; the hub's dataset if None.
        revision: Branch, tag or commit of the hub's dataset; of no effect with `path`.
        images: Folder with the images that the release only links to, named as in `image_url`, `image_name` or
            `image_path_in_repo`, or fetched by `halspan data download`; the corpus's own folder if None.
        on_error: "raise" stops at the first malformed or repeated row or incomplete caption, "skip" leaves out the
            captions concerned and counts them.
        missing_image: The same for captions whose image is missing or unreadable; "skip", since links die.
        min_images: Least share of usable images, 0 to 1; below it the corpus is refused.
        images_inside: Whether image paths may not lead out of the images' folder, by `..`, links or absolute paths.
    """

    file_names: ClassVar[tuple[str, ...]] = ("halcap_bench.jsonl", "*.jsonl")

    path: Path | None = None
    revision: str = "main"
    images: Path | None = None
    on_error: OnProblem = "raise"
    missing_image: OnProblem = "skip"
    min_images: Share = 0.9
    images_inside: bool = False

    @classmethod
    def recognizes(cls, sample: Sample) -> bool:
        """Return whether the first record is a row of one sentence."""
        return sample.record is not None and "sentence_index" in sample.record

    @classmethod
    def find_links(cls, file: Path, images: Path, skips: Skips) -> dict[str, bool]:
        """Return each address in `image_url`, and whether all of its rows find their image without it."""
        return find_addresses(file, images, skips)

    @classmethod
    def fetch(cls) -> Path:
        """Return the folder of the hub's dataset, downloaded if necessary."""
        return download("main")

    def load(self, *, check_images: bool = True) -> Corpus:
        """Read the corpus: the rows of one model and image, in the order of `sentence_index`, are one caption.

        Error words become spans where they occur in their sentence; otherwise the sentence stays incorrect without a
        span. Votes count only where both `n_correct` and `n_incorrect` are known. `notes` counts words and votes, and
        the forms of the cells with words and types.

        Args:
            check_images: Whether captions without a usable image are refused or left out; False looks at no image.

        Raises:
            DataError: The corpus cannot be found or used; the message names file, line, value and remedy.
        """
        file, source = self._find()
        skips, findings = Skips(self.on_error, most=MOST_NAMED), Findings()
        groups = _read_groups(file, skips, findings)
        folders = file.parent, find_image_root(self.images, file.parent)
        locate = ImageFinder(*folders, (group.image for group in groups))
        assembled = _assemble(groups, locate, skips, findings)
        captions = keep_with_images(
            keep_inside(assembled, file.parent, folders, images_inside=self.images_inside, skips=skips),
            file.parent,
            missing_image=self.missing_image,
            min_images=self.min_images,
            skips=skips,
            check_images=check_images,
        )
        skips.finish()
        findings.check(self.on_error)
        return Corpus(
            name="alignbench",
            captions=captions,
            image_root=file.parent,
            image_folders=folders,
            skipped=dict(skips.counts),
            source=source,
            lines={group.id: line_of(next(iter(group.rows.values()))[0]) for group in groups if group.rows},
            notes=findings.notes() | {"problems": skips.problems | findings.problems()},
        )

    def _find(self) -> tuple[Path, dict[str, str]]:
        if self.path is not None:
            file = find_corpus_file(self.path, self.file_names)
            return file, {"reader": "alignbench", "path": str(file)}
        folder = download(self.revision)
        file = find_corpus_file(folder, self.file_names)
        return file, {"reader": "alignbench", "dataset": HUB_DATASET, "commit": folder.name, "path": str(file)}


def download(revision: str) -> Path:
    """Download AlignBench from the hub, or find it in the hub's cache.

    Args:
        revision: Branch, tag or commit.

    Returns:
        The folder of the snapshot, which is named after its commit.

    Raises:
        DataError: The hub cannot be reached and the cache has no such snapshot.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                HUB_DATASET, repo_type="dataset", revision=revision, allow_patterns=["*.jsonl", "images/**"]
            )
        )
    except Exception as error:  # the client does not wrap the exceptions of its HTTP library
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"data.path: null means {HUB_DATASET} ({revision}) from the hub, which cannot be had ({reason}); "
            "set data.path to a folder with halcap_bench.jsonl, or run once online (HF_HUB_OFFLINE unset)"
        ) from None


class Findings:
    """Observations of the reader: the forms of the cells, and how the error words were found."""

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self.words: Counter[str] = Counter(matched=0, ambiguous=0, unmatched=0)
        self.how: Counter[str] = Counter()
        self.sentences: Counter[str] = Counter()
        self.votes: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.unmatched: list[str] = []
        self.incomplete_votes: list[str] = []

    def add_match(self, match: Match, where: str, sentence: str) -> None:
        """Count the ways in which words were found, and collect those that were not found."""
        if match.start is None:
            self.words["unmatched"] += 1
            self.unmatched.append(f"{where}: error_words: {match.words!r} does not occur in {sentence!r}")
            return
        self.words["ambiguous" if match.ambiguous else "matched"] += 1
        self.how[f"{match.how}, one of a delimited list" if match.split else f"{match.how}"] += 1

    def add_votes(self, row: Row, sentence: Sentence, where: str) -> None:
        """Count unusable votes, and votes that contradict the label."""
        if row.incomplete_votes is not None:
            self.votes["incomplete, left out"] += 1
            self.incomplete_votes.append(
                f"{where}: {row.incomplete_votes}: missing, so these votes are left out; write 0 for none"
            )
        if (winner := sentence.outvoted_by) and (votes := sentence.votes):
            self.votes["against the label"] += 1
            self.examples.setdefault(
                "votes against the label",
                f"{where}: n_{winner}: {max(votes.correct, votes.incorrect)} of {votes.correct + votes.incorrect} "
                f"votes, but the sentence is labeled {sentence.label}; training takes the votes, judging the label",
            )

    def check(self, on_error: OnProblem) -> None:
        """Log which votes were left out, and which words do not occur in their sentence.

        Raises:
            DataError: Most of the words do not, and problems are to be raised.
        """
        if self.incomplete_votes:
            logger.warning("incomplete votes: %d, first: %s", len(self.incomplete_votes), self.incomplete_votes[0])
        if not self.unmatched:
            return
        n_words = sum(self.words.values())
        summary = f"{self.unmatched[0]}; so do {len(self.unmatched)} of {n_words} error_words in all"
        if on_error == "raise" and len(self.unmatched) > (1 - MIN_MATCHED) * n_words:
            raise DataError(
                f"{summary}: correct them (data.on_error=skip keeps their sentences as incorrect without a span)"
            )
        logger.warning("%s: their sentences stay incorrect without a span", summary)

    def problems(self) -> dict[str, list[str]]:
        """Return messages about what was left out of rows, by reason."""
        return {"error_words": self.unmatched, "incomplete votes": self.incomplete_votes}

    def notes(self) -> dict[str, Mapping[str, Any]]:
        """Return the counts, and examples of contradictions, ready for JSON."""
        return {
            "error_words": dict(self.words),
            "error_words_found": dict(self.how),
            "sentences": dict(self.sentences),
            "votes": dict(self.votes),
            "examples": dict(self.examples),
            "forms": dict(self.forms),
        }


@plain_dataclass(slots=True)
class _Group:
    """The rows of one model and image, by their sentence_index, each with its place in the file.

    `fault` is the reason why the caption is unusable, if a row was left out.
    """

    model: str
    image: ImageReference
    rows: dict[int, tuple[str, Row]] = field(default_factory=dict)
    fault: Literal["malformed records", "repeated rows"] | None = None

    @property
    def id(self) -> str:
        """Return the id of the caption that the rows form."""
        return f"{self.model}/{self.image.key}"


def _read_groups(file: Path, skips: Skips, findings: Findings) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for where, record in read_objects(file, skips):
        group = None
        try:
            model, image = read_source(record)
            group = groups.setdefault((model, image.key), _Group(model, image))
            row, forms = read_row(record)
        except DataError as error:
            skips.add("malformed records", f"{where}: {error}")
            if group is not None:
                group.fault = "malformed records"
            continue
        findings.forms.update(f"{column}: {form}" for column, form in forms.items())
        if row.index in group.rows:
            skips.add("repeated rows", _repeated(where, row, group))
            group.fault = group.fault or "repeated rows"
            continue
        group.rows[row.index] = where, row
    return list(groups.values())


def _repeated(where: str, row: Row, group: _Group) -> str:
    return (
        f"{where}: sentence_index: {row.index} of {group.model}'s caption of {group.image.key!r} stands in "
        f"{group.rows[row.index][0]} already; give each sentence one row"
    )


def _assemble(groups: list[_Group], finder: ImageFinder, skips: Skips, findings: Findings) -> Iterator[Caption]:
    for group in groups:
        if group.fault is not None:
            skips.count(f"captions with {group.fault}", f"{group.model}'s caption of {group.image.key!r}")
            continue
        missing = next(index for index in range(len(group.rows) + 1) if index not in group.rows)
        if missing < len(group.rows):
            where = next(iter(group.rows.values()))[0]
            problem = (
                f"{where}: sentence_index: {group.model}'s caption of {group.image.key!r} has {len(group.rows)} rows "
                f"({', '.join(map(str, sorted(group.rows)))}) but no {missing}; add the row, or number from 0"
            )
            skips.add("captions with missing sentences", problem)
            continue
        yield _caption(group, finder.find(group.image), findings)


def _caption(group: _Group, image: str, findings: Findings) -> Caption:
    places = [group.rows[index] for index in sorted(group.rows)]
    text, ranges = join_sentences(row.text for _, row in places)
    sentences, spans = [], []
    for (where, row), (start, end) in zip(places, ranges, strict=True):
        types = tuple(dict.fromkeys(row.types)) if row.label == "incorrect" else ()
        sentence = Sentence(start, end, label=row.label, types=types, votes=row.votes)
        findings.add_votes(row, sentence, where)
        sentences.append(sentence)
        spans += _spans(row, where, start, findings)
    return Caption(
        id=group.id,
        image=image,
        generator=group.model,
        direction=_direction(group.model),
        text=text,
        sentences=tuple(sentences),
        spans=tuple(spans),
    )


def _direction(model: str) -> Direction:
    return "text_to_image" if model.casefold() in TEXT_TO_IMAGE_MODELS else "image_to_text"


def _spans(row: Row, where: str, offset: int, findings: Findings) -> list[Span]:
    if row.label != "incorrect":
        if row.words or row.types:
            findings.sentences[f"{row.label}, their error_words or error_type ignored"] += 1
        return []
    if not row.words:
        findings.sentences["incorrect without error_words"] += 1
    matches = match_words(row.text, row.words)
    spans = []
    for match, type_ in zip(matches, _types_of_matches(row, len(matches), findings), strict=True):
        findings.add_match(match, where, row.text)
        if match.start is not None and match.end is not None:
            spans.append(Span(offset + match.start, offset + match.end, type_))
    return spans


def _types_of_matches(row: Row, n_matches: int, findings: Findings) -> Iterable[str | None]:
    """Return the type of each match if there is one type in all or one per match; None for each otherwise."""
    if len(set(row.types)) <= 1:
        return [row.types[0] if row.types else None] * n_matches
    if len(row.types) == n_matches:
        return row.types
    if n_matches:
        findings.sentences["with several types for words in another number, spans left without a type"] += 1
    return [None] * n_matches
