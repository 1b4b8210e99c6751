import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import halspan
from halspan.core.captions import Caption, Sentence
from halspan.core.decoding import DecodingParameters
from halspan.core.errors import ConfigError, DataError, ModelError
from halspan.data.rows import Row
from halspan.inference import blocks
from halspan.inference.detector import About, Detector
from halspan.inference.tuning import Tuned
from halspan.models.backbones.tiny import save_tiny_llama4
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec, ModelSpec

TAXONOMY = ("Attribute", "Object")
TEXT = "A man rides a red horse. He wears a hat. Мужчина едет. 马站着。"
TUNED = Tuned(
    temperature=0.5,
    token_temperature=2.0,
    threshold=0.3,
    decoding=DecodingParameters(threshold=0.5, merge_gap=2, min_characters=1, snap_to_word=True),
)


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def live():
    lora = LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language"])
    spec = ModelSpec(
        backbone="builtin:llama4-tiny",
        prompt="What is wrong?",
        context="bidirectional",
        max_tokens=256,
        pack_tokens=256,
        dtype="float32",
        attention="eager",
        lora=lora,
    )
    torch.manual_seed(0)
    parts = build_detector(spec, TAXONOMY)
    for name, parameter in parts[0].named_parameters():
        if parameter.requires_grad and ("lora_B" in name or not name.startswith("backbone.")):
            torch.nn.init.normal_(parameter, std=0.2)
    about = About(name="tiny", figures={}, origin={"Data": {"reader": "none"}, "Seed": 1})
    return Detector(*parts, spec=spec, taxonomy=TAXONOMY, tuned=TUNED, about=about)


@pytest.fixture(scope="module")
def saved(live, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "detector"
    live.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(saved):
    return Detector.from_pretrained(saved, device="cpu")


@pytest.fixture
def folder(saved, tmp_path):
    """Return a copy, to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def close(one, other):
    assert [(item.start, item.end, item.type) for item in one.spans] == [
        (item.start, item.end, item.type) for item in other.spans
    ]
    assert one.unscored == other.unscored
    for left, right in zip(one.sentences, other.sentences, strict=True):
        assert left.p_incorrect == pytest.approx(right.p_incorrect, abs=1e-5)


def test_a_loaded_detector_says_what_the_live_one_says(live, detector):
    assert detector.predict(pixels(), TEXT) == live.predict(pixels(), TEXT)
    assert (detector.taxonomy, detector.tuned) == (TAXONOMY, TUNED)
    assert (detector.about.name, detector.about.origin) == ("tiny", {"Data": {"reader": "none"}, "Seed": 1})


def test_threads_get_the_predictions_of_their_own_texts(saved):
    detector = Detector.from_pretrained(saved, device="cpu")
    decoder = detector._scorer.detector.base_model.language_model.model
    decoder.register_forward_pre_hook(lambda *_: time.sleep(0.003))
    decoder.register_forward_hook(lambda *_: time.sleep(0.003))
    questions = [(pixels(number), f"{TEXT} <|patch|>{' He waves.' * (number % 8)}") for number in range(16)]
    alone = [detector.predict(*question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: detector.predict(*question), questions))
    for one, other in zip(alone, together, strict=True):
        close(one, other)


def test_a_loaded_detector_is_saved_and_loaded_again(live, saved, detector, tmp_path):
    detector.save_pretrained(tmp_path / "again")
    again = Detector.from_pretrained(tmp_path / "again", device="cpu")
    assert again.predict(pixels(), TEXT) == live.predict(pixels(), TEXT)
    first, second = (json.loads((place / "detector.json").read_text()) for place in (saved, tmp_path / "again"))
    assert first == second


def test_merging_keeps_the_scores_also_when_saved_once_more(saved, tmp_path):
    expected = Detector.from_pretrained(saved, device="cpu").predict(pixels(), TEXT)
    Detector.from_pretrained(saved, device="cpu").save_pretrained(tmp_path / "merged", merge=True)
    merged = Detector.from_pretrained(tmp_path / "merged", device="cpu")
    close(merged.predict(pixels(), TEXT), expected)
    merged.save_pretrained(tmp_path / "once_more")
    record = json.loads((tmp_path / "once_more" / "detector.json").read_text())
    assert (record["kind"], record["backbone"]["folder"]) == ("merged", ".")
    close(Detector.from_pretrained(tmp_path / "once_more", device="cpu").predict(pixels(), TEXT), expected)


def test_loading_leaves_the_random_numbers_of_its_user_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Detector.from_pretrained(saved, device="cpu")
    assert torch.equal(torch.rand(2), expected)


def test_dtype_is_a_choice(saved, detector):
    half = Detector.from_pretrained(str(saved), device="cpu", dtype=torch.bfloat16)
    exact, rounded = (one.predict(pixels(), TEXT).sentences for one in (detector, half))
    differences = [abs(a.p_incorrect - b.p_incorrect) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < max(differences) < 0.2
    with pytest.raises(ModelError, match="dtype: must be float32 or bfloat16, got 'int8'"):
        Detector.from_pretrained(saved, dtype="int8")


def test_a_folder_with_something_in_it_is_not_written_over(live, folder):
    with pytest.raises(ModelError, match="holds something already"):
        live.save_pretrained(folder)


def test_an_image_may_come_in_any_form(detector, tmp_path):
    image = Image.fromarray(pixels())
    image.save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), image, pixels(), raw, bytearray(raw), memoryview(raw)]
    predictions = [detector.predict(form, TEXT) for form in forms]
    assert all(prediction == predictions[0] for prediction in predictions)
    gray = [pixels()[:, :, 0], pixels()[:, :, :1], Image.fromarray(pixels()[:, :, 0])]
    predictions = [detector.predict(form, TEXT) for form in gray]
    assert all(prediction == predictions[0] for prediction in predictions)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 3, 3)), r"an array of float64 and shape \(3, 3, 3\) is not an image; give 8-bit pixels"),
        (np.zeros((3, 4, 4, 3), np.uint8), r"shape \(3, 4, 4, 3\) is not an image"),
        (np.zeros((0, 3), np.uint8), "is not an image"),
        ("nowhere.png", r"nowhere\.png: does not exist"),
        (b"no image", "is not an image"),
        (3, "3 is an integer; give a path, a PIL image"),
    ],
)
def test_what_is_no_image_is_an_error_that_says_which_item(detector, image, message):
    with pytest.raises(DataError, match=message):
        detector.predict(image, TEXT)
    with pytest.raises(DataError, match=r"item 1: .*image"):
        list(detector.predict_many([(pixels(), TEXT), (image, TEXT)]))


def test_sentences_are_found_unless_they_are_given(detector):
    found = detector.predict(pixels(), TEXT)
    assert [item.text for item in found.sentences] == [
        "A man rides a red horse.",
        "He wears a hat.",
        "Мужчина едет.",
        "马站着。",
    ]
    given = detector.predict(pixels(), TEXT, sentences=[(0, 24)])
    assert [item.text for item in given.sentences] == ["A man rides a red horse."]
    assert all(span.end <= 24 for span in given.spans)


@pytest.mark.parametrize("sentences", [[(0, 1000)], [(5, 3)], [], [3], [("a", "b")]])
def test_sentences_that_do_not_fit_are_an_error(detector, sentences):
    with pytest.raises(DataError):
        detector.predict(pixels(), TEXT, sentences=sentences)
    with pytest.raises(DataError, match="item 0: "):
        next(detector.predict_many([(pixels(), TEXT, sentences)]))


@pytest.mark.parametrize("text", ["", "   \n"])
def test_a_text_without_sentences_is_unscored(detector, text):
    prediction = detector.predict(pixels(), text)
    assert (prediction.sentences, prediction.spans) == ((), ())
    assert [item.reason for item in prediction.unscored] == ["there is no sentence in it"]


@pytest.mark.parametrize("text", [3, None, "half of a pair \ud800."])
def test_what_is_no_text_is_an_error(detector, text):
    with pytest.raises(DataError, match="text: "):
        detector.predict(pixels(), text)


@pytest.mark.parametrize("item", [3, (pixels(),), "ab", (pixels(), TEXT, None, None)])
def test_what_is_no_item_is_an_error(detector, item):
    with pytest.raises(DataError, match=r"item 0: .* is neither"):
        next(detector.predict_many([item]))


def test_many_are_scored_as_each_alone_whatever_shares_a_pass(detector, tmp_path):
    Image.fromarray(pixels(5)).save(tmp_path / "a.png")
    long = " ".join(f"A man rides a red horse number {n}." for n in range(30))
    items = [
        (pixels(0), TEXT),
        (tmp_path / "a.png", "A dog."),
        (tmp_path / "a.png", ""),
        (tmp_path / "a.png", long),
        (pixels(1), "A cat sits. It sleeps.", [(0, 11)]),
        (pixels(0), "   "),
        (pixels(0), "Last one."),
    ]
    alone = [detector.predict(*item[:2], sentences=item[2] if len(item) > 2 else None) for item in items]
    assert len(alone[3].sentences) == 30
    for batch_tokens in (1, 500, 100_000):
        for one, other in zip(detector.predict_many(iter(items), batch_tokens=batch_tokens), alone, strict=True):
            close(one, other)
    for one, other in zip(detector.predict_many(items[::-1]), alone[::-1], strict=True):
        close(one, other)


BAD = {
    "image": ("nothing.png", "A dog."),
    "text": (pixels(), "A dog.\ud800"),
    "item": 3,
    "sentences": (pixels(), "A dog.", [(0, 99)]),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_good_items_before_a_bad_one_have_their_results(detector, bad):
    items = [(pixels(number), TEXT) for number in range(10)]
    alone = [detector.predict(*item) for item in items]
    results = detector.predict_many([*items, bad, (pixels(), "Never read.")])
    for one in alone:
        close(next(results), one)
    with pytest.raises(DataError, match=r"^item 10: "):
        next(results)


def test_errors_are_values_in_their_places_where_asked_for(detector, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).save(path)
    items = [(path, "A dog."), *BAD.values(), (path, "A cat."), (path, 3), (path, " "), (path, "A cat."), 4]
    results = list(detector.predict_many(items, on_error="return"))
    assert [isinstance(result, DataError) for result in results] == [
        *(False, True, True, True, True),
        *(False, True, False, False, True),
    ]
    for number, result in enumerate(results):
        if isinstance(result, DataError):
            assert str(result).startswith(f"item {number}: ")
    close(results[0], detector.predict(path, "A dog."))
    close(results[8], detector.predict(path, "A cat."))
    assert results[7].unscored


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_picture_that_leaves_no_room_for_a_text_is_the_error_of_its_items(saved, on_error):
    detector = Detector.from_pretrained(saved, device="cpu")
    wide = np.zeros((60, 180, 3), np.uint8)  # which is divided into more tiles
    needed = [
        len(detector._scorer.encoder._encode_prompt(Image.fromarray(image))["input_ids"][0])
        for image in (pixels(), wide)
    ]
    assert needed[0] + 20 < needed[1]
    detector._scorer.encoder._spec = replace(detector._scorer.spec, max_tokens=needed[1])
    items = [(pixels(), "A dog."), (wide, "A cat."), (pixels(), "A bird.")]
    results = detector.predict_many(items, on_error=on_error)
    close(next(results), detector.predict(*items[0]))
    if on_error == "raise":
        with pytest.raises(ModelError, match=r"^item 1: model.max_tokens: .* leaves no room"):
            next(results)
    else:
        error, last = results
        assert str(error).startswith("item 1: model.max_tokens: ")
        close(last, detector.predict(*items[2]))
    with pytest.raises(ModelError, match=r"^model.max_tokens: .* leaves no room"):
        detector.predict(*items[1])


def test_what_to_do_with_errors_is_a_choice(detector):
    with pytest.raises(ConfigError, match="on_error: must be 'raise' or 'return', got 'skip'"):
        detector.predict_many([], on_error="skip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device: torch sees no 'cuda:99' on this machine; it has cpu"),
        ({"device": "meta"}, "device: torch sees no 'meta'"),
        ({"device": "gpu"}, "device: must be the name of a device, got 'gpu'"),
        ({"device": ["cpu"]}, r"device: must be the name of a device, got \['cpu'\]"),
        ({"dtype": ["x"]}, r"dtype: must be float32 or bfloat16, got \['x'\]"),
        ({"dtype": torch.float16}, "dtype: must be float32 or bfloat16, got torch.float16"),
    ],
)
def test_where_and_how_to_compute_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ModelError, match=message):
        Detector.from_pretrained("nothing/there", **options)


def test_the_side_on_which_the_tokenizer_pads_changes_nothing(saved, detector):
    items = [(pixels(0), TEXT), (pixels(1), "A dog.")]
    other = Detector.from_pretrained(saved, device="cpu")
    other._scorer.encoder.processor.tokenizer.padding_side = "left"
    for one, two in zip(detector.predict_many(items), other.predict_many(items), strict=True):
        close(one, two)


def test_a_picture_that_changes_between_items_is_taken_as_it_was(detector):
    frame = np.zeros_like(pixels())

    def frames():
        for seed in range(3):
            frame[:] = pixels(seed)
            yield frame, TEXT

    expected = [detector.predict(pixels(seed), TEXT) for seed in range(3)]
    for one, other in zip(detector.predict_many(frames()), expected, strict=True):
        close(one, other)


def test_results_come_while_items_still_do(detector, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_CAPTIONS", 8)
    taken = []

    def items():
        for number in range(40):
            taken.append(threading.get_ident())
            yield pixels(number), "A dog sits."

    results = detector.predict_many(items())
    next(results)
    assert len(taken) <= 2 * 8 + 1  # the block of the result, the next one, and the item that shows where it ends
    assert set(taken) == {threading.get_ident()}  # as a cursor of a database wants it
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("halspan-ahead")]


def test_items_of_one_picture_share_its_encoding_wherever_they_stand(detector, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(pixels(number)).save(path)
    inside = [str(paths[0]), paths[1], paths[2].read_bytes(), bytearray(paths[2].read_bytes())]
    items = [(image, f"A dog. It is {number}.") for number in range(4) for image in inside]
    alone = [detector.predict(*item) for item in items]
    encoder = detector._scorer.encoder
    encode_whole, n_captions = encoder.encode_whole, []

    def encode(image, captions):
        n_captions.append(len(captions))
        return encode_whole(image, captions)

    monkeypatch.setattr(encoder, "encode_whole", encode)
    for one, other in zip(detector.predict_many(items), alone, strict=True):
        close(one, other)
    assert n_captions == [4, 4, 8]


def test_pictures_in_memory_are_held_up_to_a_bound(detector, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_BYTES", 3 * pixels().nbytes)
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield pixels(number), "A dog sits."

    next(detector.predict_many(items()))
    assert len(taken) == 2 * 3 + 1


def test_an_error_of_the_items_comes_after_the_results_before_it(detector):
    def items():
        for number in range(3):
            yield pixels(number), "A dog sits."
        raise KeyError("the source is gone")

    results = detector.predict_many(items())
    for number in range(3):
        close(next(results), detector.predict(pixels(number), "A dog sits."))
    with pytest.raises(KeyError, match="the source is gone"):
        next(results)


def test_a_text_without_sentences_about_a_picture_that_is_not_there_is_an_error(detector):
    with pytest.raises(DataError, match=r"nothing.png: does not exist"):
        detector.predict("nothing.png", " ")


def test_captions_are_scored_in_the_order_of_the_rows(detector):
    captions = [
        Caption(str(n), "a.png", "g", "image_to_text", text, (Sentence(0, len(text)),))
        for n, text in enumerate(("A dog sits.", "A red horse.", "Nobody."))
    ]
    rows = [Row(Path("0"), tuple(captions[:2])), Row(Path("1"), (captions[2],))]
    scored = list(detector.score(rows, read_image=lambda path: Image.fromarray(pixels(int(path.name)))))
    assert [item.caption.id for item in scored] == ["0", "1", "2"]
    alone = detector.predict(pixels(1), "Nobody.")
    assert scored[2].sentences[0].p_incorrect == pytest.approx(alone.sentences[0].p_incorrect, abs=1e-5)


def test_the_tuned_threshold_and_temperature_decide(live):
    cold = Detector(
        live._scorer.detector,
        live._scorer.encoder,
        spec=live._scorer.spec,
        taxonomy=TAXONOMY,
        tuned=replace(TUNED, temperature=5.0),
        about=live.about,
    )
    warm, flat = (one.predict(pixels(), TEXT).sentences for one in (live, cold))
    for a, b in zip(warm, flat, strict=True):
        logit = np.log(a.p_incorrect / (1 - a.p_incorrect)) * 0.5 / 5.0
        assert b.p_incorrect == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        assert a.is_incorrect == (a.p_incorrect >= 0.3)


def test_the_card_says_what_it_is(saved):
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: halspan\nlicense: unknown\n")
    for words in ("random weights", "Detector.from_pretrained", "Attribute, Object", "Data: reader none", "Seed: 1"):
        assert words in card


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def spoil_with_pickle(folder, mark):
    (folder / "heads.safetensors").write_bytes(pickle.dumps(Trap(mark)))


def spoil_with_bin(folder, mark):
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(mark)))


def spoil_with_index(folder, mark):
    (folder / "backbone" / "model.safetensors").rename(folder.parent / "out.safetensors")
    index = {"weight_map": {"a": "../../out.safetensors"}}
    (folder / "backbone" / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_with_target(folder, mark):
    config = json.loads((folder / "backbone" / "config.json").read_text())
    config["text_config"]["_target_"] = "pathlib.Path.touch"
    (folder / "backbone" / "config.json").write_text(json.dumps(config))


def spoil_with_remote_code(folder, mark):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["trap.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(f"open({str(mark)!r}, 'w')")


def spoil_with_claim(folder, mark):
    (folder / "heads.safetensors").write_bytes((10 * 2**30).to_bytes(8, "little") + b"{}")


def spoil_with_link(folder, mark):
    shutil.move(folder / "tokenizer.json", folder.parent / "tokenizer.json")
    (folder / "tokenizer.json").symlink_to(folder.parent / "tokenizer.json")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_with_pickle,
        spoil_with_bin,
        spoil_with_index,
        spoil_with_target,
        spoil_with_remote_code,
        spoil_with_claim,
        spoil_with_link,
    ],
)
def test_a_malicious_folder_is_refused_and_nothing_of_it_is_run(folder, tmp_path, spoil):
    mark = tmp_path / "sprung"
    spoil(folder, mark)
    with pytest.raises(ModelError):
        Detector.from_pretrained(folder, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    "tuned", [{}, {"temperature": 0.0}, {"temperature": "1"}, {"decoding": {"threshold": 2}}, {"more": 1}]
)
def test_calibration_that_is_not_possible_is_refused(folder, tuned):
    record = json.loads((folder / "detector.json").read_text())
    record["tuned"] = (record["tuned"] | tuned) if tuned else {}
    (folder / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"tuned: .* is not possible"):
        Detector.from_pretrained(folder, device="cpu")


@pytest.fixture
def cache(saved, tmp_path, monkeypatch):
    """Lay a detector into the hub's cache, as its client does: links to blobs, named by a commit."""
    import huggingface_hub.constants

    root = tmp_path / "cache"
    repository, commit = root / "models--someone--tiny", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    for number, file in enumerate(path for path in saved.rglob("*") if path.is_file()):
        shutil.copy(file, repository / "blobs" / str(number))
        link = repository / "snapshots" / commit / file.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(file.relative_to(saved).parts) + 1)
        link.symlink_to(f"{up}blobs/{number}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


def test_a_detector_of_the_hub_is_loaded_by_its_id(cache, detector):
    for revision in (None, "main", "a" * 40):
        of_hub = Detector.from_pretrained("someone/tiny", device="cpu", revision=revision)
        assert of_hub.predict(pixels(), TEXT) == detector.predict(pixels(), TEXT)


def test_a_link_of_the_hub_that_leads_elsewhere_is_refused(cache):
    link = next((cache / "snapshots").rglob("tokenizer.json"))
    shutil.move(link.resolve(), cache.parent / "out.json")
    link.unlink()
    link.symlink_to(cache.parent / "out.json")
    with pytest.raises(ModelError, match="is a link out of the folder"):
        Detector.from_pretrained("someone/tiny", device="cpu")


@pytest.mark.parametrize("name", ["someone/else", "exports/typo", "a b"])
def test_a_name_that_is_nothing_is_an_error(cache, name):
    with pytest.raises(ModelError, match=rf"detector: '{name}' is not a folder, and as a hub id cannot be fetched"):
        Detector.from_pretrained(name)


def test_pushing_uploads_what_saving_writes(live, saved, tmp_path, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options))

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "pushed")
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr("halspan.inference.hub.HfApi", Api)
    assert live.push_to_hub("someone/tiny", private=True, token="t") == "https://hub/someone/tiny"
    assert calls == [("token", "t"), ("someone/tiny", {"private": True, "exist_ok": True})]
    names = {path.relative_to(saved) for path in saved.rglob("*")}
    assert {path.relative_to(tmp_path / "pushed") for path in (tmp_path / "pushed").rglob("*")} == names


def test_a_push_that_fails_says_what_to_do(live, monkeypatch):
    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, repo_id, **options):
            raise OSError("401 unauthorised")

    monkeypatch.setattr("halspan.inference.hub.HfApi", Api)
    with pytest.raises(ModelError, match="'someone/tiny': 401 unauthorised; log in"):
        live.push_to_hub("someone/tiny")


def test_a_backbone_of_the_hub_that_is_not_here_is_an_error_that_names_its_commit(cache, folder):
    record = json.loads((folder / "detector.json").read_text())
    record["backbone"] |= {"folder": None, "name": "someone/backbone", "commit": "b" * 40}
    (folder / "detector.json").write_text(json.dumps(record))
    shutil.rmtree(folder / "backbone")
    with pytest.raises(ModelError, match="someone/backbone"):
        Detector.from_pretrained(folder, device="cpu")


@pytest.fixture
def of_hub(cache, live):
    """Return a detector on a backbone of the hub, at its newest commit."""
    backbone = cache.parent / "models--someone--backbone"
    commit = "c" * 40
    save_tiny_llama4(backbone / "snapshots" / commit)
    (backbone / "refs").mkdir()
    (backbone / "refs" / "main").write_text(commit)
    spec = replace(live._scorer.spec, backbone="someone/backbone")
    torch.manual_seed(2)
    return Detector(*build_detector(spec, TAXONOMY), spec=spec, taxonomy=TAXONOMY, tuned=TUNED, about=live.about)


def test_a_backbone_of_the_hub_is_named_by_its_commit_and_stays_where_it_is(cache, of_hub, tmp_path):
    of_hub.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "backbone").exists()
    record = json.loads((tmp_path / "out" / "detector.json").read_text())["backbone"]
    assert (record["name"], record["commit"], record["folder"]) == ("someone/backbone", "c" * 40, None)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["revision"] == "c" * 40
    assert "base_model: someone/backbone\n" in (tmp_path / "out" / "README.md").read_text()
    newer = cache.parent / "models--someone--backbone" / "snapshots" / ("d" * 40)
    save_tiny_llama4(newer, seed=1)
    (newer.parent.parent / "refs" / "main").write_text("d" * 40)
    loaded = Detector.from_pretrained(tmp_path / "out", device="cpu")
    assert loaded.predict(pixels(), TEXT) == of_hub.predict(pixels(), TEXT)


def test_a_commit_that_holds_something_else_is_noticed(cache, of_hub, tmp_path):
    of_hub.save_pretrained(tmp_path / "out")
    save_tiny_llama4(cache.parent / "models--someone--backbone" / "snapshots" / ("c" * 40), seed=1)
    with pytest.raises(ModelError, match=rf"is another revision than 'someone/backbone' at commit {'c' * 40}"):
        Detector.from_pretrained(tmp_path / "out", device="cpu")


def test_a_folder_that_hides_a_backbone_of_the_hub_is_not_taken_for_it(of_hub, tmp_path, monkeypatch):
    of_hub.save_pretrained(tmp_path / "out")
    save_tiny_llama4(tmp_path / "someone" / "backbone", seed=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="which the folder of that name here would hide"):
        Detector.from_pretrained(tmp_path / "out", device="cpu")


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """All modules that `from halspan import Detector` imports."""
    script = "import sys, halspan; assert 'torch' not in sys.modules; from halspan import Detector; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_halspan_imports_no_torch_and_the_detector_nothing_of_training(imported):
    loaded = {name.partition(".")[0] for name in imported}
    training = {
        "pytorch_lightning",
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "sklearn",
        "torchmetrics",
        "matplotlib",
    }
    assert "torch" in loaded
    assert not training & loaded
    assert not any(name.startswith(("halspan.training", "halspan.app", "halspan.evaluation")) for name in imported)


def test_importing_the_detector_imports_no_code_of_4_bits_adapters_and_experts(imported):
    assert "halspan.models.detector" in imported
    assert not {"peft", "bitsandbytes"} & imported
    ours = {"lora", "backbones.quantize", "backbones.experts", "backbones.llama4_images", "backbones.tiny"}
    assert not {f"halspan.models.{name}" for name in ours} & imported
    heavy = {f"halspan.models.private.{name}" for name in ("bitsandbytes", "peft", "transformers")}
    assert not heavy & imported
    assert not any(name.startswith("transformers.models.llama4") for name in imported)
    assert "transformers.quantizers" not in imported


def test_the_package_has_no_other_lazy_names():
    assert halspan.Detector is Detector
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = halspan.Nothing


def test_weights_that_are_not_numbers_are_an_error(saved, tmp_path):
    broken = Detector.from_pretrained(saved, device="cpu")
    broken._scorer.detector.sentence_head.incorrect.bias.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        broken.predict(pixels(), TEXT)


def test_a_folder_of_somebody_elses_tensors_is_refused(folder):
    save_file({"a": torch.zeros(1)}, folder / "heads.safetensors")
    with pytest.raises(ModelError, match=r"heads\.safetensors"):
        Detector.from_pretrained(folder, device="cpu")


def test_loading_and_saving_say_nothing(saved, tmp_path):
    script = (
        "import sys; from halspan import Detector;"
        "Detector.from_pretrained(sys.argv[1], device='cpu').save_pretrained(sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(saved), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_folder_of_a_run_is_to_be_exported_first(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("config.yaml", "last.ckpt"):
        (folder / name).touch()
    with pytest.raises(ModelError, match=r"is a run, not an exported detector; export it first: python export\.py "):
        Detector.from_pretrained(folder)
