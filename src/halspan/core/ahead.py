"""Work in blocks, prepared by a thread while the caller uses what was prepared before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Generic, TypeVar

Item = TypeVar("Item")
Block = TypeVar("Block")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Block, Made]):
    """A part of a block that is ready.

    Attributes:
        block: The block.
        made: What steps of the block returned, in order.
        is_last: Whether these were its last steps.
    """

    block: Block
    made: list[Made]
    is_last: bool


def prepare_ahead(
    items: Iterable[Item],
    open_block: Callable[[Item], tuple[Block, Iterable[Callable[[], Made]]]],
    *,
    is_full: Callable[[Sequence[Made]], bool],
) -> Generator[Prepared[Block, Made], None, None]:
    """Yield the parts of blocks in order; while the caller uses one, a thread prepares the next, and no more than it.

    What goes wrong is raised in its turn, after all parts before it. When the generator is closed, the thread ends
    after the step that it is in, and the generator waits for it.

    Args:
        items: What the blocks are made of; it is advanced in the caller's thread.
        open_block: Function that returns the block of an item, and the steps that prepare it; called in the thread.
        is_full: Whether what was made is enough for a part. A part holds the results of at least one step, unless its
            block has none.
    """
    source = iter(items)
    is_over = Event()

    steps: deque[Callable[[], Made]] = deque()  # of the open block; only the thread uses them

    def begin(item: Item) -> Prepared[Block, Made]:
        block, of_block = open_block(item)
        steps.extend(of_block)
        return proceed(block)

    def proceed(block: Block) -> Prepared[Block, Made]:
        made: list[Made] = []
        while steps and not is_over.is_set() and not (made and is_full(made)):
            made.append(steps.popleft()())
        return Prepared(block, made, is_last=not steps)

    def begin_next() -> Future[Prepared[Block, Made]] | None:
        try:
            item = next(source)
        except StopIteration:
            return None
        except Exception as error:  # to be raised after the part that the caller has not seen yet
            failed: Future[Prepared[Block, Made]] = Future()
            failed.set_exception(error)
            return failed
        return thread.submit(begin, item)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="halspan-ahead") as thread:
        try:
            following = begin_next()
            while following is not None:
                part = following.result()
                following = begin_next() if part.is_last else thread.submit(proceed, part.block)
                yield part
        finally:
            is_over.set()
