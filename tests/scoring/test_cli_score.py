"""Tests of `halspan score`, with a small real detector; runs that are killed are processes of their own."""

import gzip
import inspect
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_scoring import BAD, arguments_of, damage, records, write_captions

from halspan.cli import main, score
from halspan.data.streams import records as stream
from halspan.data.streams.predictions import read_predictions
from halspan.data.streams.resumable import Paths, ResumableOutput
from halspan.inference.detector import BATCH_TOKENS, Detector
from halspan.inference.tuning import Tuned


@pytest.fixture
def captions(tmp_path):
    """Return twelve captions of four pictures, three of each together."""
    return write_captions(tmp_path / "in" / "captions.jsonl", 12, per_image=3)


@pytest.fixture
def run(detector, captions, capsys, tmp_path, monkeypatch):
    """Score in this process, four records a block; gives exit status and standard error."""
    monkeypatch.setattr(stream, "BLOCK", 4)

    def run(*arguments, input_=captions, output=tmp_path / "out" / "scored.jsonl"):
        with pytest.raises(SystemExit) as exit_:
            main(arguments_of(detector, input_, output, *arguments))
        return exit_.value.code or 0, capsys.readouterr().err

    run.output = tmp_path / "out" / "scored.jsonl"
    return run


def test_captions_become_predictions_whose_images_resolve_from_where_they_are(run, captions):
    code, err = run()
    assert code == 0
    predictions = read_predictions(run.output)
    assert [prediction.caption.id for prediction in predictions] == [f"a/{number}" for number in range(12)]
    for prediction in predictions:
        assert (run.output.parent / prediction.caption.image).resolve().parent == captions.parent
        assert [0 <= sentence.p_incorrect <= 1 for sentence in prediction.sentences] == [True, True]
    assert "12 records: 12 scored, 0 rejected\n24 sentences, 0 of them unscored\n" in err
    assert [path.name for path in run.output.parent.iterdir()] == ["scored.jsonl"]


def test_scores_are_those_that_the_detector_gives(run, detector, captions):
    run()
    loaded = Detector.from_pretrained(detector, device="cpu")
    for record in records(run.output)[::5]:
        expected = loaded.predict(run.output.parent / record["image"], record["text"])
        scores = [sentence["p_incorrect"] for sentence in record["sentences"]]
        assert scores == pytest.approx([sentence.p_incorrect for sentence in expected.sentences], abs=1e-5)


def test_predictions_are_scored_again_as_captions(run, tmp_path):
    run()
    code, _ = run(input_=run.output, output=tmp_path / "out" / "again.jsonl")
    assert code == 0
    assert (tmp_path / "out" / "again.jsonl").read_bytes() == run.output.read_bytes()


def test_what_cannot_be_used_is_set_aside_with_line_and_reason_and_counted(run, captions):
    damage(captions, 2, 7)
    (captions.parent / "white.png").unlink()
    code, err = run()
    assert code == 0
    assert "14 records: 9 scored, 5 rejected (scored.rejected.jsonl says why)" in err
    rejected = records(run.output.with_name("scored.rejected.jsonl"))
    assert [item["line"] for item in rejected] == [3, 9, 12, 13, 14]
    assert rejected[0] == {
        "line": 3,
        "reason": "not JSON: Expecting value (character 0); repair it",
        "bytes": 10,
        "record": "no record",
    }
    assert "white.png: does not exist" in rejected[2]["reason"]
    assert [item["id"] for item in records(run.output)] == [f"a/{number}" for number in range(9)]


def test_a_caption_is_scored_whatever_its_labels_and_what_cannot_be_used_of_them_is_counted(run, captions):
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    for number in (1, 6, 7):
        lines[number]["sentences"] = [{"start": 0, "end": 5, "label": "Incorrect"}]
        lines[number]["spans"] = [{"start": 0, "end": 500}]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, err = run()
    assert code == 0
    assert "12 records: 12 scored, 0 rejected\n" in err
    assert err.count("left out: scoring does without it") == 1
    assert f"{captions}:2: sentences[0].label: 'Incorrect' is not possible; did you mean incorrect?" in err
    assert "labels, types, votes, spans or keys that cannot be used left out of 3 records\n" in err
    assert records(run.output)[1]["sentences"][0].keys() == {"start", "end", "p_incorrect", "logit"}


def test_keys_that_captions_do_not_have_are_refused_or_left_out_as_asked(run, captions):
    lines = [json.loads(line) | {"url": "https://example.org"} for line in captions.read_text().splitlines()]
    captions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, err = run()
    assert code == 1
    assert records(run.output.with_name("scored.rejected.jsonl"))[0]["reason"].startswith("url: unknown key")
    code, err = run("--extra-keys", "ignore", "--overwrite")
    assert code == 0
    assert "12 records: 12 scored, 0 rejected\n" in err
    assert f"{captions}:1: url: unknown key (left out: scoring does without it)\n" in err
    assert "cannot be used left out of 12 records\n" in err


@pytest.mark.parametrize(("name", "encoding"), [("captions.jsonl", "utf-16"), ("captions.json", "utf-8")])
def test_an_input_of_another_kind_is_told_what_it_is_and_nothing_is_loaded(run, captions, name, encoding):
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    text = json.dumps(lines) if name.endswith(".json") else captions.read_text()
    input_ = captions.with_name(name)
    input_.write_text(text, encoding=encoding)
    code, err = run(input_=input_)
    kind = "a JSON array" if name.endswith(".json") else "UTF-16"
    assert code == 1
    assert f"{input_}: is {kind}, not JSON Lines; convert it: " in err
    assert not run.output.parent.exists()


def test_where_nothing_can_be_scored_the_status_says_so(run, captions):
    captions.write_text(BAD * 3)
    code, err = run()
    assert code == 1
    assert "error: none of the 3 records can be scored" in err


def test_a_record_that_cannot_be_used_stops_the_run_where_asked(run, captions):
    damage(captions, 6)
    code, err = run("--on-error", "raise")
    assert code == 1
    assert f"error: {captions}:7: not JSON" in err
    assert not run.output.exists()


def test_only_what_passes_is_kept_and_what_is_dropped_is_counted(run, tmp_path):
    run()
    highest = [max(s["p_incorrect"] for s in record["sentences"]) for record in records(run.output)]
    limit = sorted(highest)[4]
    kept = tmp_path / "out" / "kept.jsonl"
    code, err = run("--max-p-incorrect", limit, output=kept)
    assert code == 0
    expected = [record for record, high in zip(records(run.output), highest, strict=True) if high <= limit]
    assert records(kept) == expected
    assert len(expected) >= 5
    assert (
        f"{len(expected)} captions kept; dropped: {12 - len(expected)} with a sentence above the limit, 0 with" in err
    )


def test_standard_input_is_read_as_a_file_and_its_images_from_the_folder_given(run, captions, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(captions.read_bytes())))
    piped = tmp_path / "out" / "piped.jsonl"
    assert run("--images", captions.parent, input_="-", output=piped)[0] == 0
    assert piped.read_bytes() == run.output.read_bytes()


def feed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_compressed_lines_come_in_and_go_out_with_the_same_records(run, captions, tmp_path):
    run()
    packed = captions.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(captions.read_bytes()))
    outputs = [tmp_path / "out" / f"{name}.jsonl.gz" for name in ("first", "second")]
    for output in outputs:
        assert run(input_=packed, output=output)[0] == 0
        assert gzip.decompress(output.read_bytes()) == run.output.read_bytes()
    assert outputs[0].read_bytes() == outputs[1].read_bytes()  # neither a name nor a time is in it


def test_compressed_lines_are_continued(run, captions, tmp_path, monkeypatch):
    run()
    packed, output = captions.with_suffix(".jsonl.gz"), tmp_path / "out" / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(captions.read_bytes()))
    append = ResumableOutput.append

    def stop_behind_the_first(self, **block):
        append(self, **block)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableOutput, "append", stop_behind_the_first)
        assert run(input_=packed, output=output)[0] == 130
    assert not output.exists()
    assert run("--resume", input_=packed, output=output)[0] == 0
    assert gzip.decompress(output.read_bytes()) == run.output.read_bytes()


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda _: b'{"id": "plain lines"}\n'])
def test_what_is_not_a_whole_gzip_file_is_refused_before_anything_is_scored(run, captions, spoil):
    packed = captions.with_suffix(".jsonl.gz")
    packed.write_bytes(spoil(gzip.compress(captions.read_bytes())))
    code, err = run(input_=packed)
    assert (code, err.count("\n")) == (1, 1)
    assert f"error: {packed}: cannot be read (it is not a whole gzip file" in err
    assert not run.output.exists()


def test_standard_output_has_the_predictions_alone_and_standard_error_what_is_rejected(
    detector, run, captions, monkeypatch, capsys
):
    run()
    feed(monkeypatch, BAD.encode() + captions.read_bytes())
    monkeypatch.chdir(run.output.parent)
    with pytest.raises(SystemExit) as exit_:
        main(arguments_of(detector, "-", "-", "--images", captions.parent))
    out, err = capsys.readouterr()
    assert not exit_.value.code
    assert [json.loads(line)["id"] for line in out.splitlines()] == [f"a/{number}" for number in range(12)]
    assert out.splitlines()[0] == run.output.read_text().splitlines()[0]
    assert "rejected: standard input:1: not JSON" in err
    assert "Written to" not in err
    assert list(run.output.parent.iterdir()) == [run.output]


@pytest.mark.slow
def test_a_reader_of_standard_output_that_ends_is_one_line(detector, tmp_path):
    captions = write_captions(tmp_path / "captions.jsonl", 2000, per_image=500)
    arguments = arguments_of(detector, captions, "-", "--batch-tokens", 100_000)
    command = [sys.executable, "-c", f"from halspan.cli import main; main({arguments!r})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert err.splitlines()[-1].startswith("error: standard output: the reading program has ended")
    assert "Traceback" not in err
    assert process.returncode == 1


def test_a_stream_of_another_kind_is_told_what_it_is(run, monkeypatch):
    feed(monkeypatch, b"id,image,text\n1,a.png,A cat.\n")
    code, err = run(input_="-")
    assert code == 1
    assert "error: standard input: is a table (CSV), not JSON Lines" in err


def test_a_run_is_to_be_exported_first(captions, tmp_path, capsys):
    folder = tmp_path / "checkpoints" / "own"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "best.ckpt", "report.html"):
        (folder / name).touch()
    with pytest.raises(SystemExit) as exit_:
        main(arguments_of(folder, captions, tmp_path / "scored.jsonl"))
    assert exit_.value.code == 1
    err = capsys.readouterr().err
    assert f"{folder} is a run, not an exported detector; export it first: python export.py run={folder}" in err


def test_the_scored_file_carries_the_threshold_of_the_detector(run):
    run()
    assert {record["threshold"] for record in records(run.output)} == {Tuned().threshold}


def test_a_finished_output_is_left_alone_unless_it_is_to_be_replaced(run):
    run()
    run.output.write_text("mine\n")
    code, err = run()
    assert code == 2
    assert "exists already; --overwrite replaces it" in err
    code, err = run("--resume")
    assert code == 0
    assert "is finished already" in err
    assert run.output.read_text() == "mine\n"
    assert run("--overwrite")[0] == 0
    assert len(records(run.output)) == 12


def test_an_unfinished_output_is_continued_or_begun_again_but_only_if_told_so(run, captions):
    damage(captions, 6)
    run("--on-error", "raise")
    assert len(records(Paths(run.output).partial)) == 4
    code, err = run()
    assert code == 2
    assert "an interrupted run has left part" in err
    assert run("--resume")[0] == 0
    continued = run.output.read_bytes()
    assert run("--overwrite")[0] == 0
    assert run.output.read_bytes() == continued


@pytest.mark.parametrize(
    ("change", "option", "name"),
    [
        ("", "--batch-tokens=99", "--batch-tokens 16384"),
        ("", "--max-p-incorrect=0.3", "--max-p-incorrect None"),
        ("\n", "--shard=1/1", "--input's bytes"),
    ],
)
def test_a_run_with_other_settings_or_input_cannot_continue(run, captions, change, option, name):
    damage(captions, 6)
    run("--on-error", "raise")
    captions.write_text(captions.read_text() + change)
    code, err = run("--resume", option)
    assert code == 2
    assert f"--resume: the interrupted run had {name}" in err


def test_another_detector_cannot_continue(run, captions, detector, tmp_path):
    damage(captions, 6)
    run("--on-error", "raise")
    with pytest.raises(SystemExit) as exit_:
        main(arguments_of(_retrained(detector, tmp_path), captions, run.output, "--resume"))
    assert exit_.value.code == 2


def _retrained(detector, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(detector, other)
    heads = other / "heads.safetensors"
    data = bytearray(heads.read_bytes())
    data[-1] ^= 1
    heads.write_bytes(data)
    return other


IMPOSSIBLE = {
    "stdin": (["--input", "-", "--resume"], "standard input cannot be read again"),
    "stdout": (["--output", "-", "--resume"], "standard output cannot be continued"),
    "both": (["--resume", "--overwrite"], "one continues, the other begins again"),
    "suffix of the output": (["--output", "scored.csv"], "'scored.csv' is neither .jsonl, .ndjson,"),
    "suffix of the input": (["--input", "captions.txt"], "'captions.txt' is neither"),
    "images": (["--images", "nowhere"], "--images: 'nowhere' is not a folder"),
    "shard": (["--shard", "3/2"], "--shard: 3/2 is not possible"),
    "device that is not there": (["--device", "cuda:99"], "--device: torch sees no 'cuda:99' on this machine"),
    "device": (["--device", "gpu"], "--device: must be the name of a device, got 'gpu'"),
    "probability": (["--max-p-incorrect", "20"], "should be less than or equal to 1"),
}


@pytest.mark.parametrize(("arguments", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(run, arguments, message):
    code, err = run(*arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert not run.output.parent.exists()


def test_the_input_is_not_overwritten(run, captions):
    code, err = run("--overwrite", output=captions)
    assert code == 2
    assert "is the input; give another file" in err


def test_a_detector_that_is_not_there_leaves_nothing_behind(run, captions, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as exit_:
        main(arguments_of("nowhere", captions, run.output))
    assert exit_.value.code == 1
    assert "detector: 'nowhere' is not a folder" in capsys.readouterr().err
    assert not run.output.parent.exists()


def test_parquet_comes_in_and_goes_out_with_the_same_scores(run, captions, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (halspan[parquet])")
    from pyarrow import parquet

    run()
    file = captions.with_suffix(".parquet")
    parquet.write_table(pyarrow.Table.from_pylist(records(captions)), file)
    output = tmp_path / "out" / "scored.parquet"
    assert run(input_=file, output=output)[0] == 0
    lines = tmp_path / "out" / "lines.jsonl"
    assert run(input_=file, output=lines)[0] == 0
    assert lines.read_bytes() == run.output.read_bytes()
    rows = parquet.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == [f"a/{number}" for number in range(12)]
    scores = [[sentence["p_incorrect"] for sentence in row["sentences"]] for row in rows]
    assert scores == [[s["p_incorrect"] for s in record["sentences"]] for record in records(run.output)]


@pytest.mark.parametrize("option", ["input_", "output"])
def test_without_pyarrow_parquet_says_what_to_install(run, tmp_path, option, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = tmp_path / "captions.parquet"
    if option == "input_":
        file.touch()
    code, err = run(**{option: file})
    assert code == 2
    assert "pip install 'halspan[parquet]'" in err


def test_the_tokens_of_a_pass_are_the_detector_s_own_unless_told_otherwise():
    assert inspect.signature(score.score).parameters["batch_tokens"].default == BATCH_TOKENS


def start_command(arguments, errors=None, *, block=stream.BLOCK, ignores_ctrl_c=False):
    """Do what the console command does, with its standard error in a file."""
    if errors is not None:
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    if ignores_ctrl_c:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    stream.BLOCK = block
    main(arguments)


@pytest.fixture(scope="module")
def spawn():
    """Start `halspan` in processes that need not import torch each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["halspan.inference.detector", "halspan.cli.score"])

    def spawn(arguments, *more, **options):
        process = context.Process(target=start_command, args=(arguments, *more), kwargs=options)
        process.start()
        return process

    return spawn


def wait_for_blocks(output, n, is_alive):
    """Wait until so many blocks are finished; gives whether the process is still there."""
    journal = Paths(output).journal
    while is_alive():
        if journal.exists() and journal.read_bytes().count(b"\n") > n:
            return True
        time.sleep(0.005)
    return False


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bytes(detector, spawn, tmp_path):
    block = 128
    captions = write_captions(tmp_path / "captions.jsonl", 4 * block, per_image=3)
    damage(captions, 5, 200, 350)
    whole, killed = tmp_path / "whole" / "scored.jsonl", tmp_path / "killed" / "scored.jsonl"
    reference = spawn(arguments_of(detector, captions, whole), block=block)
    reference.join()
    assert reference.exitcode == 0
    source = random.Random(0)
    for n_blocks in (0, 1, 2):
        process = spawn(arguments_of(detector, captions, killed, "--resume"), block=block)
        assert wait_for_blocks(killed, n_blocks, process.is_alive)
        time.sleep(source.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not killed.exists()
    last = spawn(arguments_of(detector, captions, killed, "--resume"), block=block)
    last.join()
    assert last.exitcode == 0
    for name in ("scored.jsonl", "scored.rejected.jsonl"):
        assert (killed.parent / name).read_bytes() == (whole.parent / name).read_bytes()
    assert sorted(path.name for path in killed.parent.iterdir()) == ["scored.jsonl", "scored.rejected.jsonl"]
    assert len(records(killed)) == 4 * block
    assert [item["line"] for item in records(killed.parent / "scored.rejected.jsonl")] == [6, 202, 353]


@pytest.mark.parametrize("ignores_ctrl_c", [False, True])  # as `nohup ... &` starts it
def test_ctrl_c_is_one_line_that_says_how_to_continue(detector, spawn, tmp_path, ignores_ctrl_c):
    captions = write_captions(tmp_path / "captions.jsonl", 12 * stream.BLOCK, per_image=3)
    output, errors = tmp_path / "scored.jsonl", tmp_path / "errors.txt"
    process = spawn(arguments_of(detector, captions, output), errors, ignores_ctrl_c=ignores_ctrl_c)
    assert wait_for_blocks(output, 1, process.is_alive)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    err = errors.read_text()
    assert process.exitcode == 130, err
    assert err.splitlines()[-1] == f"interrupted; the same command with --resume continues {output}"
    assert "Traceback" not in err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    assert "halspan score -d exports/shapes -i captions.jsonl -o scored.jsonl" in capsys.readouterr().out
