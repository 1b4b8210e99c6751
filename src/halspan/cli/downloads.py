"""Output of `halspan data download`: a progress bar, and the outcome of each address."""

from collections import Counter
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from halspan.console import open_console
from halspan.core.text.printable import printable
from halspan.data.download.addresses import DOWNLOADS
from halspan.data.download.fetch import Downloader
from halspan.data.download.links import Links, find_links
from halspan.data.download.manifest import FILE_NAME, Outcome

_INTERRUPTED = 130  # exit status of shells after Ctrl-C
_MANY = 5  # addresses with the same image, which is probably a "no longer available" picture


def fetch_images(file: Path, format_: str, downloader: Downloader) -> int:
    """Fetch the images that a corpus links to, and report the outcome of each.

    Returns:
        Exit status: 0 if every image is there or its link is dead, 1 if not, 130 if interrupted.

    Raises:
        DataError: The corpus cannot be read, or the folder cannot be written.
    """
    console = open_console()
    links = find_links(file, format_, images=downloader.images)
    if links.n_malformed:
        console.print(f"{links.n_malformed} records cannot be read; `halspan data check` says why.")
    if not links.to_fetch:
        console.print(f"{file}: nothing to fetch; {len(links.at_hand)} images that it links to are at hand.")
        return 0
    outcomes: list[Outcome] = []
    interrupted = _fetch(links.to_fetch, downloader, outcomes)
    console.print(_reason_table(outcomes))
    _print_summary(console, links, outcomes, downloader)
    if interrupted:
        console.print("Interrupted; the same command continues from here.")
        return _INTERRUPTED
    return 0 if all(outcome.state in ("there", "dead") for outcome in outcomes) else 1


def _fetch(urls: tuple[str, ...], downloader: Downloader, outcomes: list[Outcome]) -> bool:
    """Add the outcome of each address to `outcomes`; return whether the download was interrupted."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[counts]}"))
    counts: Counter[str] = Counter()
    try:
        with Progress(*columns, console=open_console(stderr=True)) as progress, closing(downloader.run(urls)) as run:
            task = progress.add_task("", total=len(urls), counts="")
            for outcome in run:
                outcomes.append(outcome)
                counts[outcome.state] += 1
                listing = ", ".join(f"{count} {state}" for state, count in counts.items())
                progress.update(task, advance=1, counts=listing)
    except KeyboardInterrupt:
        return True
    return False


def _reason_table(outcomes: Collection[Outcome]) -> Table:
    table = Table(title="What became of the addresses", title_justify="left")
    for column in ("state", "reason", "addresses", "such as"):
        table.add_column(column, justify="right" if column == "addresses" else "left", overflow="fold")
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.state, outcome.reason or ""), []).append(outcome)
    states = ("there", "dead", "refused", "unreachable")
    for (state, reason), group in sorted(groups.items(), key=lambda item: (states.index(item[0][0]), -len(item[1]))):
        example = "" if state == "there" else printable(group[0].url) + f" ({group[0].detail})" * bool(group[0].detail)
        table.add_row(state, reason, str(len(group)), example)
    return table


def _print_summary(console: Console, links: Links, outcomes: Collection[Outcome], downloader: Downloader) -> None:
    there = [outcome for outcome in outcomes if outcome.state == "there"]
    mib = sum(outcome.size or 0 for outcome in there) / 2**20
    folder = downloader.images / DOWNLOADS
    console.print(
        f"{len(there)} of {len(links.to_fetch)} images ({mib:.1f} MiB) are in {folder} ({FILE_NAME} lists them); "
        f"{len(links.at_hand)} more were at hand."
    )
    contents = Counter(outcome.sha256 for outcome in there).most_common(1)
    if contents and contents[0][1] >= _MANY:
        example = next(outcome for outcome in there if outcome.sha256 == contents[0][0])
        console.print(f"{contents[0][1]} addresses gave the same image; look at {example.file}: is it a placeholder?")
    if n_unreachable := sum(outcome.state == "unreachable" for outcome in outcomes):
        console.print(f"{n_unreachable} gave no answer; the same command asks them once more.")
