import threading
import time
from functools import partial

import pytest

from halspan.core.ahead import prepare_ahead

TIMEOUT = 10  # seconds; what is waited for comes in milliseconds


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("halspan-ahead")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


def run(blocks, do=lambda item: item, *, size=2):
    """Prepare blocks of items, so many of them a part."""

    def open_block(block):
        return tuple(block), [partial(do, item) for item in block]

    return prepare_ahead(blocks, open_block, is_full=lambda made: len(made) >= size)


def test_parts_hold_all_items_of_all_blocks_in_order():
    parts = list(run([[1, 2, 3, 4, 5], [], [6, 7]], lambda item: -item))
    assert [(part.block, part.made, part.is_last) for part in parts] == [
        ((1, 2, 3, 4, 5), [-1, -2], False),
        ((1, 2, 3, 4, 5), [-3, -4], False),
        ((1, 2, 3, 4, 5), [-5], True),
        ((), [], True),
        ((6, 7), [-6, -7], True),
    ]


def test_the_next_part_is_prepared_while_the_caller_uses_one_and_none_beyond_it():
    made, fourth = [], threading.Event()

    def do(item):
        made.append(item)
        if item == 4:
            fourth.set()
        return item

    parts = run([[1, 2, 3], [4, 5, 6, 7], [8]], do)
    assert next(parts).made == [1, 2]
    assert next(parts).made == [3]
    assert fourth.wait(TIMEOUT)  # of the next block
    time.sleep(0.1)
    assert made == [1, 2, 3, 4, 5]
    parts.close()


def test_items_are_taken_in_the_thread_of_the_caller_and_prepared_in_one_other():
    sources, workers = set(), set()

    def blocks():
        for number in range(3):
            sources.add(threading.get_ident())
            yield [number]

    list(run(blocks(), lambda _: workers.add(threading.get_ident())))
    assert sources == {threading.get_ident()}
    assert len(workers) == 1
    assert not workers & sources


def fail_at(bad, item):
    if item == bad:
        raise ValueError(item)
    return item


def failing_source():
    yield [1, 2]
    yield [3]
    raise ValueError(4)


@pytest.mark.parametrize(
    ("blocks", "do"), [(failing_source(), lambda item: item), ([[1, 2], [3], [4]], partial(fail_at, 4))]
)
def test_what_goes_wrong_is_raised_after_the_parts_before_it(blocks, do):
    parts = run(blocks, do)
    assert [next(parts).made, next(parts).made] == [[1, 2], [3]]
    with pytest.raises(ValueError, match="4"):
        next(parts)
    with pytest.raises(StopIteration):
        next(parts)


def test_a_block_that_cannot_be_opened_is_raised_in_its_turn():
    def open_block(block):
        return int(block), [partial(int, block)]

    parts = prepare_ahead("1b", open_block, is_full=lambda _: True)
    assert next(parts).made == [1]
    with pytest.raises(ValueError, match="'b'"):
        next(parts)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_whoever_stops_waits_for_one_step_at_most(error):
    made, second = [], threading.Event()

    def do(item):
        made.append(item)
        if item == 1:
            second.set()
            time.sleep(0.2)
        return item

    parts = run([[0], list(range(1, 1000))], do, size=1000)
    next(parts)
    assert second.wait(TIMEOUT)
    if error is None:
        parts.close()
    else:
        with pytest.raises(error):
            parts.throw(error())
    assert made == [0, 1]
    assert not threads()


def test_a_generator_that_was_never_begun_has_no_thread():
    run([[1]]).close()
    assert not threads()
