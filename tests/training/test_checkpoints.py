"""Two checkpoints are kept, and a damaged one is told from a whole one; `resume=auto` goes on from what is there."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import run, small_overrides, unjudged_runs

from halspan.core.errors import ConfigError, ModelError
from halspan.training.checkpoints import AtomicCheckpointIO, read_checkpoint, read_newest
from halspan.training.rundir import RunDirectory


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    with unjudged_runs():
        yield


def command(corpus, folder):
    exact = ["trainer.precision=32-true", "optimizer.schedule=constant", "optimizer.warmup_fraction=0"]
    return [*small_overrides(corpus), *exact, f"run_dir={folder}"]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(*command(corpus, folder))
    return folder


@pytest.fixture(scope="module")
def half(corpus, tmp_path_factory):
    """Return a run of 4 of its 6 steps, which has kept those after steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    run(*command(corpus, folder), "trainer.max_steps=4", "trainer.save_every_steps=2")
    (folder / "metrics.json").unlink()
    return folder


def step(file: Path) -> int:
    return torch.load(file, weights_only=True)["global_step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def is_same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "cut off": (cut, "is not a checkpoint that can be read (File is not a zip file)"),
    "a bit flipped": (flip, "is not a checkpoint that can be read (bytes of "),
    "empty": (lambda file: file.write_bytes(b""), "is not a checkpoint that can be read (File is not a zip file)"),
    "not there": (Path.unlink, "is not there"),
}


def test_the_checkpoint_before_the_last_one_is_kept(half):
    assert (step(half / "previous.ckpt"), step(half / "last.ckpt")) == (2, 4)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_weights(
    corpus, whole, half, tmp_path, caplog, damage
):
    folder = shutil.copytree(half, tmp_path / "run")
    harm, said = DAMAGES[damage]
    harm(folder / "last.ckpt")
    run(*command(corpus, folder), "resume=auto")
    (warning,) = (line for line in caplog.messages if "the one before it" in line)
    assert warning.startswith(f"{folder / 'last.ckpt'}: {said}")
    assert warning.endswith("; the run continues from previous.ckpt, the one before it")
    assert is_same(folder, whole)


def test_where_both_are_damaged_nothing_is_begun_again(corpus, half, tmp_path):
    folder = shutil.copytree(half, tmp_path / "run")
    for name in ("last.ckpt", "previous.ckpt"):
        flip(folder / name)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match=r"have changed .*, and previous.ckpt, the one before it, cannot be read eith"):
        run(*command(corpus, folder), "resume=auto")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    (folder / "previous.ckpt").unlink()
    with pytest.raises(ModelError, match=r"previous.ckpt, the one before it, is not there; restore one of them, or"):
        run(*command(corpus, folder), "resume=true")


def test_any_changed_byte_is_noticed_or_changes_nothing(half, tmp_path):
    content = (half / "last.ckpt").read_bytes()
    own = read_checkpoint(half / "last.ckpt")["state_dict"]
    draw = random.Random(7)
    noticed = 0
    for _ in range(80):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "last.ckpt").write_bytes(changed)
        try:
            read = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
        except ModelError:
            noticed += 1
        else:
            assert all(torch.equal(value, read[name]) for name, value in own.items())
    assert noticed > 40  # the rest are bytes that fill up, and names and times in headers


def write(place, number, **options):
    writer = AtomicCheckpointIO(place, **options)
    writer.save_checkpoint({"state_dict": {}, "global_step": number}, place.last)
    return writer


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_one_before_it(tmp_path):
    place = RunDirectory(tmp_path)
    for number in (1, 2):
        write(place, number, is_last_whole=True)
    cut(place.last)
    writer = write(place, 2, is_last_whole=False)
    assert (step(place.previous), step(place.last)) == (1, 2)
    writer.save_checkpoint({"state_dict": {}, "global_step": 3}, place.last)
    assert (step(place.previous), step(place.last)) == (2, 3)


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moves):
    place, left = RunDirectory(tmp_path), moves
    for number in (1, 2):
        write(place, number, is_last_whole=True)
    replace = Path.replace

    def replace_or_die(path, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    if moves < 2:
        with pytest.raises(KeyboardInterrupt):
            write(place, 3, is_last_whole=True)
    else:
        write(place, 3, is_last_whole=True)
    monkeypatch.undo()
    newest = read_newest(place)
    assert newest is not None
    assert newest.content["global_step"] == (3 if moves == 2 else 2)
    assert (newest.damage is None) == (moves != 1)


def test_the_same_command_begins_a_run_and_goes_on_with_it_and_shows_what_is_finished(corpus, whole, tmp_path):
    same = [*command(corpus, tmp_path / "run"), "resume=auto"]
    run(*same, "trainer.max_steps=3")
    run(*same)
    assert is_same(tmp_path / "run", whole)
    written = (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns
    run(*same)
    assert (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns == written


def test_a_run_that_saved_nothing_begins_again_with_other_settings(corpus, half, tmp_path):
    folder = shutil.copytree(half, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^seed: 5, but the run in "):
        run(*command(corpus, folder), "resume=auto", "seed=5")
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).unlink()
    run(*command(corpus, folder), "resume=auto", "seed=5", "trainer.max_steps=1")
    assert step(folder / "last.ckpt") == 1


def test_resume_auto_and_overwrite_exclude_each_other(corpus, tmp_path):
    with pytest.raises(ConfigError, match="not both"):
        run(*command(corpus, tmp_path), "resume=auto", "overwrite=true")
