"""Tests of the console command, through the function that the `halspan` script calls."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from halspan.cli import main
from halspan.data.jsonl import JsonLines


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
    """Two captions in AlignBench's columns, of two generators and images."""
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
    heavy = {"torch", "transformers", "PIL", "numpy", "pydantic", "huggingface_hub"}
    script = "import sys, halspan.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(modules)


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
        "captions with malformed records: 1, such as\n  qwen's caption of 'images/2.png'",
        "captions without their image: 1",
        "images that cannot be decoded: 1",
        "error_words that do not occur: 1",
        "halcap_bench.jsonl:6: annotation: 'wrong' is not possible",
    ):
        assert problem in out


def test_stats_tabulates_each_generator(run, alignbench):
    code, out, _ = run("data", "stats", alignbench)
    assert code == 0
    sizes, positions, types = (
        [line.replace("│", " ").split() for line in out.splitlines() if line.startswith("│ sd")][i] for i in range(3)
    )
    assert sizes == ["sd", "1", "1", "2", "2.0", "3.0", "50.0", "0", "1", "0"]
    assert positions == ["sd", "0.0", "100.0"]
    assert types == ["sd", "0", "1", "0", "0", "0", "0", "0", "0", "0"]


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


def test_a_chocolate_corpus_is_recognised_by_its_file(run, tmp_path):
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
    assert "error: PATH: missing; chocolate comes from no hub" in err


def test_without_a_path_alignbench_comes_from_the_hub(run, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = run("data", "stats")
    assert code == 1
    assert "omron-sinicx/AlignBench (main) from the hub" in err


def test_an_unknown_command_is_a_usage_error(run):
    assert run("data", "mend")[0] == 2
