"""Tests of the console command, through the function that the `halspan` script calls."""

import csv
import gzip
import inspect
import io
import json
import re
import subprocess
import sys

import pytest
from PIL import Image

from halspan.cli import data, judge, main, score
from halspan.data.readers.jsonl import JsonLines


@pytest.fixture
def run(capsys):
    """Run `halspan` with arguments; gives exit status, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def alignbench(tmp_path):
    """Return two captions in AlignBench's columns, of two generators and images."""
    folder = tmp_path / "bench"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, model in enumerate(("llava", "sd")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"images/{number}.png")
        place = {"model": model, "image_path_in_repo": f"images/{number}.png"}
        rows.append({**place, "sentence_index": 0, "caption": "A man.", "annotation": "correct"})
        wrong = {"annotation": "incorrect", "error_type": "Object", "error_words": ["hat"]}
        rows.append({**place, "sentence_index": 1, "caption": "He has a hat.", **wrong})
    (folder / "halcap_bench.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [[], ["data"], ["data", "check"], ["data", "stats"], ["data", "convert"], ["data", "download"]],
    ids=" ".join,
)
def test_help_is_there_for_each_command(run, arguments):
    code, out, _ = run(*arguments, "--help")
    assert code == 0
    assert "halspan data" in out  # an example


def test_help_imports_nothing_heavy():
    heavy = {"torch", "transformers", "PIL", "numpy", "pydantic", "huggingface_hub", "hydra", "omegaconf"}
    script = "import sys, halspan.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(modules)


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_the_application_is_listed_and_reads_its_own_command_line(run, monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["halspan"])
    assert re.search(rf"^\W+{name}  +\S", run("--help")[1], re.MULTILINE)
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"python {name}.py" in out  # hydra's help, not typer's
    code, _, error = run(name, "nonsense=1", "-m" if name == "train" else "run=x")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: nonsense: unknown key")


def test_what_starts_the_process_again_is_a_file_of_python(run, monkeypatch):
    """Lightning starts the other processes of a run as `python sys.argv[0] ...`."""
    monkeypatch.setattr(sys, "argv", ["halspan"])
    run("train", "--cfg", "job", "seed=7")
    again = subprocess.run([sys.executable, *sys.argv], capture_output=True, text=True, check=True)
    assert "\nseed: 7\n" in again.stdout


def test_without_the_extra_the_application_says_what_to_install():
    script = "import sys; sys.modules['hydra'] = None; from halspan.cli import main; main(['train', 'seed=1'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: halspan train needs hydra, which is not installed: pip install 'halspan[train]'\n"


def test_check_of_a_sound_corpus_says_so(run, alignbench):
    code, out, _ = run("data", "check", alignbench)
    assert code == 0
    assert "2 captions of 2 images, 4 sentences, 2 spans" in out
    assert "error words: matched (2), ambiguous (0), unmatched (0)" in out
    assert out.endswith("No problem found.\n")


def test_check_finds_every_kind_of_problem_in_one_go(run, alignbench):
    file = alignbench / "halcap_bench.jsonl"
    place = {"model": "qwen", "sentence_index": 0, "caption": "A dog."}
    rows = [
        {**place, "image_path_in_repo": "images/1.png", "annotation": "incorrect", "error_words": ["cat"]},
        {**place, "image_path_in_repo": "images/2.png", "annotation": "wrong"},
        {**place, "image_path_in_repo": "images/3.png", "annotation": "correct"},
    ]
    file.write_text(file.read_text() + "\n" + "\n".join(map(json.dumps, rows)) + "\n{")
    damaged = alignbench / "images/0.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:45] + bytes(4) + content[49:])
    code, out, _ = run("data", "check", alignbench)
    assert code == 1
    for problem in (
        "malformed records: 2",
        "captions with malformed records: 1\n  qwen's caption of 'images/2.png'",
        "captions without their image: 1",
        "captions of unreadable images: 1",
        "error_words that do not occur: 1",
        "line 6: annotation: 'wrong' is not possible",
    ):
        assert problem in out


def test_stats_tabulates_each_generator(run, alignbench):
    code, out, _ = run("data", "stats", alignbench)
    assert code == 0
    sizes, positions, types = (
        [line.split() for line in out.splitlines() if line.startswith("sd")][i] for i in range(3)
    )
    assert sizes == ["sd", "1", "1", "2", "2.0", "3.0", "50.0", "0", "1", "0"]
    assert positions == ["sd", "0.0", "100.0"]
    assert types == ["sd", "0", "1", "0", "0", "0", "0", "0", "0", "0"]


@pytest.fixture
def captions(tmp_path):
    """Return nine captions of two generators: all spans but the first are off by one, one label is misspelled."""
    records = []
    for number in range(9):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        start = 14 + (number > 0)
        records.append(
            {
                "id": "=1+1" if number == 1 else str(number),
                "image": f"{number}.png",
                "generator": "ab"[number % 2],
                "direction": "image_to_text",
                "text": "A man rides a horse there.",
                "sentences": [{"start": 0, "end": 26, "label": "Incorrect" if number == 8 else "incorrect"}],
                "spans": [{"start": start, "end": start + 5, "type": "Object"}],
            }
        )
    records[0]["sentences"][0]["label"] = "correct"
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_check_says_what_cannot_be_used_and_what_is_probably_wrong(run, captions):
    code, out, _ = run("data", "check", captions)
    assert code == 1
    assert "error: malformed records: 1\n  line 9: sentences[0].label: 'Incorrect' is not possible; did you mean" in out
    assert "warning: spans off their words: 7, such as\n  line 2, =1+1: spans[0]: 'orse ' [15, 20) cuts a word" in out
    assert "probably 'horse' [14, 19)" in out
    assert out.count("cuts a word") == 5
    assert "warning: spans in correct sentences: 1" in out
    assert "All of them: --all problems.csv" in out


def test_check_writes_all_problems_as_rows_that_no_spreadsheet_computes(run, captions, tmp_path):
    run("data", "check", captions, "--all", tmp_path / "problems.csv")
    with (tmp_path / "problems.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["severity"], row["line"], row["id"]) for row in rows] == [
        ("error", "9", ""),
        ("warning", "1", "0"),
        ("warning", "2", "'=1+1"),
        *(("warning", str(number + 1), str(number)) for number in range(2, 8)),
    ]
    assert rows[2]["suggestion"] == "probably 'horse' [14, 19)"


def test_warnings_alone_leave_status_0(run, captions):
    captions.write_text("".join(captions.read_text().splitlines(keepends=True)[:3]))
    code, out, _ = run("data", "check", captions)
    assert code == 0
    assert out.endswith("No error, 3 warnings.\n")


def test_check_warns_of_images_that_lie_elsewhere(run, captions, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "1.png")
    places = ("../0.png", str(tmp_path / "1.png"), "link.png")
    records = [json.loads(line) | {"image": place} for line, place in zip(captions.open(), places, strict=False)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = run("data", "check", folder)
    assert code == 0
    assert "warning: image paths that leave the images' folder: 3\n  line 1, 0: image: '../0.png' leads out of" in out


def test_keys_that_captions_do_not_have_are_left_out_where_asked(run, captions):
    captions.write_text(captions.read_text().replace('"text"', '"note": 1, "text"'))
    assert "note: unknown key" in run("data", "check", captions)[2]
    code, out, _ = run("data", "check", captions, "--extra-keys", "ignore")
    assert "keys left out: note (8)" in out
    assert (code, "unknown key" in out) == (1, False)


def test_stats_need_no_images(run, alignbench):
    _, before, _ = run("data", "stats", alignbench)
    (alignbench / "images/0.png").unlink()
    code, after, _ = run("data", "stats", alignbench)
    assert (code, after) == (0, before)


def test_convert_writes_canonical_captions_whose_images_resolve_from_there(run, alignbench, tmp_path):
    output = tmp_path / "new" / "captions.jsonl"
    code, out, _ = run("data", "convert", alignbench, output)
    assert code == 0
    assert f"Written to {output}" in out
    corpus = JsonLines(path=output).load()
    assert [caption.image for caption in corpus.captions] == ["../bench/images/0.png", "../bench/images/1.png"]
    assert corpus.captions[0].text == "A man. He has a hat."


def test_convert_writes_absolute_image_paths_where_asked(run, alignbench, tmp_path):
    output = tmp_path / "captions.jsonl"
    assert run("data", "convert", alignbench, output, "--absolute")[0] == 0
    image = json.loads(output.read_text().splitlines()[0])["image"]
    assert image == str((alignbench / "images/0.png").resolve())


def test_what_was_converted_converts_to_itself(run, alignbench, tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    run("data", "convert", alignbench, first)
    run("data", "convert", first, second)
    assert first.read_text() == second.read_text()


def test_a_chocolate_corpus_is_recognized_by_its_file(run, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "chart.png")
    record = {"sentences": ["Sales grew."], "labels": [[]], "model": "bard", "image_path": "chart.png", "_id": "1"}
    (tmp_path / "chocolate.json").write_text(json.dumps([record]))
    code, out, _ = run("data", "check", tmp_path)
    assert (code, "1 captions of 1 images" in out) == (0, True)


def test_a_malformed_corpus_is_one_line_and_exit_status_1(run, tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text('{"id": 3')
    code, out, err = run("data", "stats", path)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "captions.jsonl:1: not JSON" in err


def test_markup_in_a_message_is_shown_as_it_is(run, alignbench):
    file = alignbench / "halcap_bench.jsonl"
    file.write_text(file.read_text().replace("correct", "[bold]", 1))
    _, out, _ = run("data", "check", alignbench)
    assert "'[bold]' is not possible" in out


def test_a_format_without_a_hub_needs_a_path(run):
    code, _, err = run("data", "stats", "--format", "chocolate")
    assert code == 2
    assert "error: PATH: missing; chocolate is not on a hub" in err


def test_without_a_path_alignbench_comes_from_the_hub(run, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = run("data", "stats")
    assert code == 1
    assert "omron-sinicx/AlignBench (main) from the hub" in err


def test_an_unknown_command_is_a_usage_error(run):
    assert run("data", "mend")[0] == 2


@pytest.mark.parametrize(
    "command", ["", "score", "judge", "compare", "data", "data check", "data stats", "data download", "data convert"]
)
def test_help_fits_80_columns_and_breaks_no_choice(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(*command.split(), "--help")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for choices in re.findall(r"<(\w+\|[\w|]*)", out):
        assert f"<{choices}>" in out
    shown = [line.strip() for line in out.splitlines()]
    function = {"judge": judge.judge, "compare": judge.compare, "score": score.score} | vars(data)
    if documented := inspect.getdoc(function.get(command.rpartition(" ")[2])):
        assert [line for line in documented.splitlines()[1:] if line.strip() not in shown] == []


@pytest.fixture
def feed(monkeypatch):
    """Set standard input."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_captions_come_from_standard_input_and_from_compressed_files(run, captions, feed, tmp_path, monkeypatch):
    packed = captions.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(captions.read_bytes()))
    monkeypatch.chdir(captions.parent)  # where the images of a stream are
    for command in ("check", "stats"):
        plain = run("data", command, captions.name)
        feed(captions.read_bytes())
        piped, unpacked = run("data", command, "-"), run("data", command, packed.name)
        assert plain[0] == piped[0] == unpacked[0]
        assert plain[1] == piped[1].replace("standard input:", f"{captions.name}:", 1)
        assert plain[1] == unpacked[1].replace(packed.name, captions.name, 1)


def test_captions_are_converted_to_standard_output_and_to_compressed_files(
    run, alignbench, feed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run("data", "convert", alignbench, "plain.jsonl")
    code, out, err = run("data", "convert", alignbench, "-")
    assert (code, out) == (0, (tmp_path / "plain.jsonl").read_text())
    assert "2 captions" in err
    feed(out.encode())
    run("data", "convert", "-", "packed.jsonl.gz")
    assert gzip.decompress((tmp_path / "packed.jsonl.gz").read_bytes()).decode() == out


def test_of_standard_input_only_lines_of_json_are_read(run, feed):
    feed("nothing".encode("utf-16"))
    code, _, err = run("data", "check", "-")
    assert (code, err.startswith("error: standard input: is UTF-16, not JSON Lines; ")) == (1, True)
    code, _, err = run("data", "check", "-", "--format", "chocolate")
    assert (code, err) == (2, "error: --format: chocolate does not come from standard input; give its file or folder\n")
