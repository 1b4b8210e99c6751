"""Runs that are made longer, and runs that a signal ends: what they leave, and where they go on."""

import contextlib
import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from small_runs import ROOT, run, small_overrides, unjudged_runs

from halspan.core.errors import ConfigError, ResourceError
from halspan.training.interruption import Interrupted, Signals
from halspan.training.module import DetectorModule

STEPS = ["trainer.max_steps=null", "trainer.val_every_steps=null"]
SMALL = ["trainer.val_every_steps=4", "trainer.tokens_per_pass=200"]


@pytest.fixture(scope="module", autouse=True)
def unjudged():
    with unjudged_runs():
        yield


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(*quick(corpus), *SMALL, f"run_dir={folder}")
    return folder


def quick(corpus):
    return [*small_overrides(corpus), "trainer.precision=32-true"]


def checkpoint(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)


def assert_same(first, second):
    for name in ("last.ckpt", "best.ckpt"):
        one, two = checkpoint(first, name), checkpoint(second, name)
        assert one["global_step"] == two["global_step"]
        assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())


def test_a_finished_run_with_more_epochs_takes_the_steps_of_a_run_that_had_them_from_the_start(corpus, tmp_path):
    steady = [
        *quick(corpus),
        *STEPS,
        "trainer.rows_per_batch=8",
        "optimizer.schedule=constant",
        "optimizer.warmup_fraction=0",
    ]
    for name, epochs, resume in (("longer", 1, False), ("longer", 2, True), ("whole", 2, False)):
        run(*steady, f"trainer.max_epochs={epochs}", f"run_dir={tmp_path / name}", f"resume={resume}")
    assert checkpoint(tmp_path / "longer")["global_step"] == 6
    assert_same(tmp_path / "longer", tmp_path / "whole")


def test_a_longer_run_follows_the_schedule_of_its_new_length_at_once_and_says_so(corpus, tmp_path, caplog):
    overrides = [*quick(corpus), "trainer.log_every_steps=1", f"run_dir={tmp_path}"]
    run(*overrides, "trainer.max_steps=2")
    with caplog.at_level("INFO", logger="halspan"):
        run(*overrides, "trainer.max_steps=4", "resume=true")
    assert "was to have 2 optimizer steps and has 4 now: from here on the learning rate follows" in caplog.text
    header, first, *_ = (tmp_path / "logs/version_1/metrics.csv").read_text().splitlines()
    rate = float(first.split(",")[header.split(",").index("train/lr")])
    # cosine over 4 steps after ceil(0.05 * 4) = 1 step of warm-up: (1 + cos(pi / 3)) / 2 of the peak at step 2
    assert rate == pytest.approx(0.75 * 4e-3)


@pytest.mark.parametrize(("every", "validated"), [(650, [1, 2, 4]), (2, [1, 2, 3, 4])])
def test_curves_go_on_at_the_step_after_the_last_one_however_often_a_run_was_resumed(
    corpus, tmp_path, every, validated
):
    for steps, resume in ((2, False), (3, True), (5, True)):
        length = [f"trainer.max_steps={steps}", f"trainer.val_every_steps={every}"]
        run(*quick(corpus), *length, f"run_dir={tmp_path}", f"resume={resume}")
    rows = [
        row
        for version in range(3)
        for row in csv.DictReader((tmp_path / f"logs/version_{version}/metrics.csv").open(newline=""))
    ]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3, 4]
    assert [int(row["step"]) for row in rows if row["val/loss"]] == validated


def patient(corpus, folder, *more):
    """Validate after every step; a rate of 1.0 makes the loss rise at once."""
    rising = ["optimizer.lora_lr=1.0", "optimizer.head_lr=1.0", "optimizer.warmup_fraction=0"]
    length = ["trainer.max_steps=12", "trainer.val_every_steps=1", "trainer.patience=2"]
    return run(*quick(corpus), *rising, *length, f"run_dir={folder}", *more)


def val_losses(folder):
    files = sorted(folder.glob("logs/version_*/metrics.csv"))
    return [float(row["val/loss"]) for file in files for row in csv.DictReader(file.open()) if row["val/loss"]]


def test_training_ends_early_when_the_validation_loss_has_not_been_lower_for_long_enough(corpus, tmp_path, caplog):
    with caplog.at_level("INFO", logger="halspan"):
        patient(corpus, tmp_path)
    losses, last = val_losses(tmp_path), checkpoint(tmp_path)
    best = losses.index(min(losses)) + 1
    assert last["global_step"] == len(losses) == best + 2 < 12
    assert checkpoint(tmp_path, "best.ckpt")["global_step"] == best
    assert f"training ended early, after optimizer step {best + 2} of 12: the last 2 validations" in caplog.text
    assert (tmp_path / "metrics.json").exists()


def test_a_run_with_patience_that_was_killed_ends_at_the_same_step(corpus, tmp_path, monkeypatch):
    patient(corpus, tmp_path / "whole")
    end = checkpoint(tmp_path / "whole")["global_step"]
    do_at(monkeypatch, end - 2, send(signal.SIGTERM))  # after one of the two validations without a lower loss
    with pytest.raises(Interrupted):
        patient(corpus, tmp_path / "killed")
    assert checkpoint(tmp_path / "killed")["global_step"] == end - 1
    monkeypatch.undo()
    patient(corpus, tmp_path / "killed", "resume=true")
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_ended_early_takes_no_further_step_and_more_patience_goes_on(corpus, tmp_path):
    patient(corpus, tmp_path)
    end = checkpoint(tmp_path)["global_step"]
    (tmp_path / "metrics.json").unlink()  # as where judging was killed
    patient(corpus, tmp_path, "resume=true")
    assert checkpoint(tmp_path)["global_step"] == end
    patient(corpus, tmp_path, "resume=true", "trainer.patience=3")
    assert checkpoint(tmp_path)["global_step"] == end + 1


def test_fewer_steps_than_were_taken_are_refused_and_nothing_is_changed(corpus, whole):
    files = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"ask for 3 optimizer steps, but the run in .* has taken 6; ask for at"):
        run(*quick(corpus), *SMALL, f"run_dir={whole}", "resume=true", "trainer.max_steps=3")
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == files


def resume(corpus, folder, *more):
    """Resume the whole run from where its corpus lies now; say what is refused, and that nothing has changed then."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        run(*quick(corpus), *SMALL, f"run_dir={folder}", "resume=true", *more)
    except ConfigError as error:
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
        return str(error)
    return None


@pytest.fixture
def edited(corpus, tmp_path):
    """Return a copy of the corpus elsewhere, and a way to edit its records."""
    shutil.copytree(corpus.parent, tmp_path / "edited")
    file = tmp_path / "edited" / corpus.name

    def edit(change):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        records = change(records) or records
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return file

    return edit


def relabel(records):
    sentence = next(each for each in records[4]["sentences"] if each["label"] == "correct")
    sentence["label"] = "unknown"


EDITS = {
    "labels": (relabel, "1 caption has other labels, spans or votes (first: 'ben/1')"),
    "spans": (lambda r: [each.update(spans=[]) for each in r if each["spans"]] and None, "have other labels, spans"),
    "texts": (
        lambda r: r[0].update(text=r[0]["text"].replace("field", "shape")),
        "1 caption has another text or generator (first: 'anna/0')",
    ),
    "a caption less": (lambda r: r[1:], "1 caption of the run is not there (first: 'anna/0')"),
    "a caption more": (lambda r: [*r, r[0] | {"id": "new"}], "1 caption is new (first: 'new')"),
    "their order": (lambda r: r[1:] + r[:1], "captions are in another order (first: 'ben/0' where 'anna/0' stood)"),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_does_not_go_on_with_another_corpus(edited, whole, tmp_path, name, is_finished):
    change, named = EDITS[name]
    folder = shutil.copytree(whole, tmp_path / "run")
    if not is_finished:
        (folder / "metrics.json").unlink()
    refused = resume(edited(change), folder)
    assert refused is not None
    assert refused.startswith(f"data.path: the corpus is not the one that the run in {folder} has: ")
    assert named in refused


def test_a_run_does_not_go_on_with_other_images(edited, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    file = edited(lambda records: None)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(file.parent / "images" / "0.png")
    assert "3 captions have another image (first: 'anna/0')" in resume(file, folder)


def test_a_run_does_not_go_on_where_captions_share_other_image_files(edited, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    file = edited(lambda records: records[0].update(image="images/again.png"))
    shutil.copy(file.parent / "images" / "0.png", file.parent / "images" / "again.png")
    assert "other captions share an image file than did" in resume(file, folder)


@pytest.mark.parametrize("key", ["rows_per_batch", "captions_per_row"])
def test_what_changes_the_rows_of_a_step_is_refused_by_name(corpus, whole, key):
    assert resume(corpus, whole, f"trainer.{key}=2").startswith(f"trainer.{key}: 2, but the run in {whole} has ")


def test_a_corpus_may_have_moved_and_the_machine_may_be_another(edited, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    file = edited(lambda records: None)
    assert resume(file, folder) is None
    machine = ["trainer.workers=0", "trainer.tokens_per_pass=100", "trainer.save_every_steps=1", "trainer.max_steps=8"]
    assert resume(file, folder, *machine) is None
    assert checkpoint(folder)["global_step"] == 8


def test_a_run_that_has_trained_nothing_yet_may_begin_with_another_corpus(edited, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("metrics.json", "last.ckpt", "previous.ckpt", "best.ckpt"):
        (folder / name).unlink()
    assert resume(edited(relabel), folder) is None


def test_a_run_without_hashes_is_compared_by_ids_images_and_parts(edited, corpus, whole, tmp_path, caplog):
    folder = shutil.copytree(whole, tmp_path / "run")
    split = json.loads((folder / "split.json").read_text())
    del split["contents"]
    (folder / "split.json").write_text(json.dumps(split))
    assert resume(corpus, folder) is None
    assert "only ids, images and parts of captions are compared" in caplog.text
    id_ = split["parts"]["train"]["captions"][0]
    fewer = edited(lambda records: [record for record in records if record["id"] != id_])
    assert f"1 caption of the run is not there (first: {id_!r})" in resume(fewer, folder)


def test_a_run_without_its_split_does_not_go_on(corpus, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "split.json").unlink()
    assert "split.json: cannot be read (No such file or directory); restore it" in resume(corpus, folder)


def test_dropout_of_a_step_does_not_depend_on_what_was_drawn_before(corpus, whole, tmp_path, monkeypatch):
    from halspan.training.module import DetectorModule

    step = DetectorModule.training_step

    def draw_more(module, batch, batch_idx):
        torch.rand(batch_idx)
        return step(module, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "training_step", draw_more)
    run(*quick(corpus), *SMALL, f"run_dir={tmp_path}")
    assert_same(whole, tmp_path)


def test_checkpoints_that_hold_the_state_of_generators_still_load(corpus, whole, tmp_path):
    stopped = tmp_path / "stopped"
    steady = [*quick(corpus), *SMALL, "optimizer.schedule=constant", "optimizer.warmup_fraction=0"]
    run(*steady, f"run_dir={stopped}", "trainer.max_steps=2")
    before = checkpoint(stopped) | {"rng": {"cpu": torch.get_rng_state(), "cuda": []}}
    torch.save(before, stopped / "last.ckpt")
    run(*steady, f"run_dir={stopped}", "resume=true")
    run(*steady, f"run_dir={tmp_path / 'whole'}")
    assert_same(stopped, tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's compiler itself
def test_a_run_compiles_its_layers_while_it_trains_and_its_checkpoint_is_the_same(corpus, whole, tmp_path, monkeypatch):
    seen = []
    step = DetectorModule.training_step

    def look(module, *arguments):
        seen.append([layer._compiled_call_impl is not None for layer in module.detector.decoder_layers])
        return step(module, *arguments)

    monkeypatch.setattr(DetectorModule, "training_step", look)
    with torch.compiler.set_stance("force_eager"):  # what is compiled runs as it is; compiling would take minutes
        run(*quick(corpus), *SMALL, f"run_dir={tmp_path}", "trainer.compile=true")
    assert all(all(layers) for layers in seen)
    assert len(seen) == checkpoint(tmp_path)["global_step"]
    assert checkpoint(tmp_path)["state_dict"].keys() == checkpoint(whole)["state_dict"].keys()
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_two_processes_with_dropout_resume_to_the_weights_of_an_uninterrupted_run(corpus, tmp_path):
    together = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.workers=0"]
    # of three rows, one process has two and the other one, so that they draw different amounts
    rows = ["trainer.rows_per_batch=3", "trainer.save_every_steps=1"]
    steady = [*quick(corpus), *rows, "optimizer.schedule=constant", "optimizer.warmup_fraction=0"]
    resumed, whole = tmp_path / "resumed", tmp_path / "whole"
    for folder, steps, goes_on in ((resumed, 3, "false"), (resumed, 6, "true"), (whole, 6, "false")):
        subprocess.run(
            [
                *[sys.executable, ROOT / "train.py", *together, *steady, f"trainer.max_steps={steps}"],
                *[f"run_dir={folder}", f"resume={goes_on}"],
            ],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=True,
            capture_output=True,
            timeout=300,
        )
    assert checkpoint(resumed)["global_step"] == 6
    assert_same(resumed, whole)


def do_at(monkeypatch, step, action, *, hook="training_step"):
    """Do something in the middle of an optimizer step, or of the validation after it."""
    original = getattr(DetectorModule, hook)

    def act(module, *arguments):
        if module.trainer.global_step == step:
            action()
        return original(module, *arguments)

    monkeypatch.setattr(DetectorModule, hook, act)


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize(
    ("hook", "at", "step"), [("training_step", 1, 2), ("training_step", 3, 4), ("validation_step", 4, 4)]
)
def test_a_signal_ends_a_run_after_the_step_it_is_in_and_it_goes_on_to_the_same_weights(
    corpus, whole, tmp_path, monkeypatch, capfd, hook, at, step, number
):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    do_at(monkeypatch, at, send(number), hook=hook)
    with pytest.raises(Interrupted) as end:
        run(*overrides, "trainer.save_every_steps=500")
    monkeypatch.undo()
    assert end.value.status == 128 + number
    assert end.value.how_to_go_on == "the same command with resume=true continues from last.ckpt"
    assert "training ends after this step" in capfd.readouterr().err
    assert checkpoint(tmp_path)["global_step"] == step
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    run(*overrides, "resume=true")
    assert_same(tmp_path, whole)


def test_a_signal_in_the_last_step_ends_a_run_before_it_is_judged(corpus, whole, tmp_path, monkeypatch):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    do_at(monkeypatch, 5, send(signal.SIGTERM))
    with pytest.raises(Interrupted):
        run(*overrides)
    assert_same(tmp_path, whole)
    assert not (tmp_path / "metrics.json").exists()
    run(*overrides, "resume=true")
    assert (tmp_path / "metrics.json").exists()


def test_a_second_ctrl_c_ends_a_run_at_once_and_a_second_sigterm_does_not(monkeypatch):
    monkeypatch.setattr("halspan.training.interruption._AGAIN_SECONDS", 0.0)
    with Signals() as signals:
        signals.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as end:
            os.kill(os.getpid(), signal.SIGINT)
    assert end.value.status == 143


def test_ctrl_c_that_is_sent_twice_at_once_counts_once(monkeypatch):
    now, ended = 100.0, []
    monkeypatch.setattr("halspan.training.interruption.time", SimpleNamespace(monotonic=lambda: now))
    with Signals() as signals:
        signals.wait()
        for seconds in (0.0, 0.9, 1.1):  # after the first one; from 1 second on it is another one
            now = 100.0 + seconds
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except Interrupted:
                ended.append(seconds)
    assert ended == [1.1]


def test_a_signal_before_training_ends_it_at_once_and_what_cleans_up_is_not_disturbed():
    cleaned = []
    with Signals(), contextlib.ExitStack() as clean_up:
        clean_up.callback(cleaned.append, 1)
        clean_up.callback(os.kill, os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        clean_up.close()
    assert cleaned == [1]


@pytest.fixture
def limit():
    """Set limits of this process, for the time of a test."""
    before = {}

    def limit(kind, size):
        before.setdefault(kind, resource.getrlimit(kind))
        resource.setrlimit(kind, (size, before[kind][1]))

    yield limit
    for kind, limits in before.items():
        resource.setrlimit(kind, limits)


def test_a_full_disk_is_one_line_that_names_the_file_and_the_checkpoint_stays_whole(
    corpus, whole, tmp_path, monkeypatch, limit
):
    overrides = [*quick(corpus), *SMALL, f"run_dir={tmp_path}"]
    do_at(monkeypatch, 3, lambda: limit(resource.RLIMIT_FSIZE, 100_000))  # bytes; a checkpoint alone has more
    with pytest.raises(ResourceError, match=r"best.ckpt: cannot be written: .* the same command with resume=tr") as end:
        run(*overrides)
    monkeypatch.undo()
    limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    assert "\n" not in str(end.value)
    assert checkpoint(tmp_path)["global_step"] == 2
    assert not list(tmp_path.glob(".*"))
    run(*overrides, "resume=true")
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60)])
def test_too_little_memory_is_one_line_that_says_what_to_lower(corpus, tmp_path, monkeypatch, allocate):
    do_at(monkeypatch, 3, allocate)
    with pytest.raises(
        ResourceError, match=r"^the memory of this machine does not suffice \(.*\); lower trainer."
    ) as end:
        run(*quick(corpus), f"run_dir={tmp_path}")
    assert "\n" not in str(end.value)
    assert checkpoint(tmp_path)["global_step"] == 2
