"""Files of kept features: whole or not there, bounded, and never served where they are damaged."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from halspan.models.kept.store import Store


def name_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_entry(number: int, size: int = 1000) -> dict[str, Tensor]:
    numbers = torch.arange(size, dtype=torch.float32) + number
    return {
        "features": numbers.bfloat16().view(-1, 10),
        "is_image": numbers.view(-1) > number,
        "prompt": numbers.long(),
    }


def assert_entry(found: dict[str, Tensor] | None, number: int, size: int = 1000) -> None:
    assert found is not None
    expected = make_entry(number, size)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_read_as_it_was_written(tmp_path):
    assert Store(tmp_path, gib=1).read(name_of(1)) is None
    assert Store(tmp_path, gib=1).write(name_of(1), make_entry(1))
    assert_entry(Store(tmp_path, gib=1).read(name_of(1)), 1)
    assert [path.parent.name for path in files(tmp_path)] == [name_of(1)[:2]]


@pytest.mark.parametrize("damage", ["cut", "one bit", "header", "empty", "another entry"])
def test_a_damaged_entry_is_not_served_but_written_again(tmp_path, caplog, damage):
    store = Store(tmp_path, gib=1)
    store.write(name_of(1), make_entry(1))
    path = store.path(name_of(1))
    whole = bytearray(path.read_bytes())
    if damage == "another entry":
        other = Store(tmp_path / "other", gib=1)
        other.write(name_of(2), make_entry(2))
        whole = bytearray(other.path(name_of(2)).read_bytes())
    elif damage == "one bit":
        whole[-700] ^= 1
    elif damage == "header":
        whole[:8] = b"\xff" * 8
    path.write_bytes({"cut": whole[:-9], "empty": b""}.get(damage, bytes(whole)))
    assert store.read(name_of(1)) is None
    assert "is damaged" in caplog.text
    assert store.write(name_of(1), make_entry(1))
    assert_entry(store.read(name_of(1)), 1)


def test_from_the_bound_on_nothing_is_written(tmp_path, caplog):
    size = sum(tensor.nbytes for tensor in make_entry(0).values())
    store = Store(tmp_path, gib=5.5 * size / 2**30)
    with caplog.at_level(logging.WARNING):
        written = [store.write(name_of(number), make_entry(number)) for number in range(9)]
    assert written == [True] * sum(written) + [False] * (9 - sum(written))
    assert sum(written) in (4, 5)  # files have headers
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5.5 * size
    assert caplog.text.count("no further features of images are kept") == 1
    assert not Store(tmp_path, gib=5.5 * size / 2**30).write(name_of(9), make_entry(9))  # those of others count too
    assert_entry(store.read(name_of(0)), 0)


def test_a_folder_that_cannot_be_written_to_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "folder", gib=1)
    assert not store.write(name_of(1), make_entry(1))
    assert "cannot be written to" in caplog.text
    assert store.read(name_of(1)) is None


WRITE_FOREVER = """
import sys
from pathlib import Path
from test_kept_store import Store, make_entry, name_of
store, size = Store(Path(sys.argv[1]), gib=1), 100_000
for turn in range(10**6):
    for number in range(4):
        store.path(name_of(number)).unlink(missing_ok=True)
        store.write(name_of(number), make_entry(number, size))
    print(turn, flush=True)
"""


def writer(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that writes the same entries again and again."""
    command = [sys.executable, "-c", WRITE_FOREVER, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent)  # which it imports from
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_kill_while_writing_leaves_no_wrong_entry(tmp_path):
    left = []
    for delay in (0.0, 0.005):
        process = writer(tmp_path)
        deadline = time.monotonic() + 60
        time.sleep(delay)
        while not list(tmp_path.rglob("*.tmp")) and time.monotonic() < deadline:
            pass  # until it is in the middle of writing
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        left += list(tmp_path.rglob("*.tmp"))
        for number in range(4):
            if (found := Store(tmp_path, gib=1).read(name_of(number))) is not None:
                assert_entry(found, number, 100_000)
    assert left, "no kill came while a file was written"
    for path in left:
        if path.exists():
            os.utime(path, (0, 0))
    Store(tmp_path, gib=1).write(name_of(9), make_entry(9))
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_that_write_at_once_leave_one_right_entry(tmp_path):
    processes = [writer(tmp_path) for _ in range(2)]
    seen = 0
    deadline = time.monotonic() + 60
    while seen < 20 and time.monotonic() < deadline:
        for number in range(4):
            if (found := Store(tmp_path, gib=1).read(name_of(number))) is not None:
                seen += 1
                assert_entry(found, number, 100_000)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert seen >= 20
    for path in tmp_path.rglob("*.safetensors"):
        assert load_file(path).keys() == make_entry(0).keys()
