import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.data.rows import Row
from halspan.evaluation.baselines.baseline_specs import DualEncoderSpec
from halspan.evaluation.baselines.dual_encoder import DualEncoder, load_dual_encoder
from halspan.testing.tiny_dual_encoders import BUILD, WINDOW, saved
from halspan.testing.tiny_models import make_caption, make_image

IMAGES = {Path("a.png"): make_image(0), Path("b.png"): make_image(1, width=64, height=128)}
CAPTIONS = (make_caption("A red cat sat. It ran!"), make_caption("Два кота. No dog is here."))
ROWS = (Row(Path("a.png"), CAPTIONS), Row(Path("b.png"), CAPTIONS[:1]), Row(Path("a.png"), CAPTIONS[:1]))
MARKS = {"clip": 2, "siglip": 1, "siglip2": 1}  # tokens around a text

families = pytest.mark.parametrize("name", BUILD)


def load(name, **changes) -> DualEncoder:
    return load_dual_encoder(DualEncoderSpec(model=str(saved(name)), **changes), device="cpu")


def score(encoder, rows=ROWS):
    return list(encoder.score(rows, read_image=IMAGES.__getitem__))


def scores(encoder, rows=ROWS):
    return [sentence.p_incorrect for prediction, _ in score(encoder, rows) for sentence in prediction.sentences]


@families
def test_p_incorrect_is_half_of_one_minus_the_models_own_cosine_in_all_families(name):
    encoder = load(name)
    config, processor = encoder._model.config, BUILD[name]()[1]
    expected = []
    for row in ROWS:
        pixels = processor.image_processor(images=[IMAGES[row.image]], return_tensors="pt")
        for caption in row.captions:
            for sentence in caption.sentences:
                ids = processor.tokenizer(caption.text[sentence.start : sentence.end])["input_ids"]
                padding = [config.text_config.pad_token_id] * (WINDOW - len(ids))
                inputs = {"input_ids": torch.tensor([ids + padding]), **pixels}
                if name == "clip":
                    inputs["attention_mask"] = torch.tensor([[1] * len(ids) + [0] * len(padding)])
                with torch.no_grad():
                    output = encoder._model(**inputs)
                expected.append((1 - float(output.text_embeds[0] @ output.image_embeds[0])) / 2)
    assert scores(encoder) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 4  # neither the image nor the sentence is without effect


@families
def test_a_score_does_not_depend_on_what_is_read_with_it_in_all_families(name):
    assert scores(load(name, batch_sentences=1)) == pytest.approx(scores(load(name, batch_sentences=64)), abs=1e-6)


@families
def test_each_image_is_read_once_and_tokens_are_counted_without_padding_in_all_families(name):
    encoder = load(name)
    read, encoded = [], []

    def read_image(path):
        read.append(path)
        return IMAGES[path]

    encoder._model.vision_model.register_forward_hook(lambda *_: encoded.append(1))
    costs = [cost for _, cost in encoder.score(ROWS, read_image=read_image)]
    assert read == list(IMAGES)
    assert len(encoded) == 2
    # tokens are bytes: "A red cat sat." and "It ran!" 14 + 7, "Два кота." and "No dog is here." 9 + 7 letters + 15
    assert costs == [
        Cost(1, 21 + 2 * MARKS[name], 2),
        Cost(0, 31 + 2 * MARKS[name], 2),
        Cost(1, 21 + 2 * MARKS[name], 2),
        Cost(0, 21 + 2 * MARKS[name], 2),
    ]


def test_a_sentence_beyond_the_text_window_is_cut_and_counted(caplog):
    start = "A" * (WINDOW - 2)  # a mark before and behind it
    whole, longer = (Row(Path("a.png"), (make_caption(text),)) for text in (start, start + "B"))
    encoder = load("clip")
    with caplog.at_level(logging.WARNING, logger="halspan"):
        of_whole = score(encoder, [whole])
        assert not caplog.records
        of_longer = score(encoder, [longer])
    assert "1 of 1 sentences are longer than the text window of 32 tokens and were cut" in caplog.text
    assert of_longer[0][0].sentences == of_whole[0][0].sentences
    assert of_longer[0][1] == Cost(1, WINDOW, 1)


def test_what_looks_like_the_end_of_a_text_is_text():
    texts = ("A <|endoftext|> cat", "A <|endoftext|> dog")  # read as its end, both would be "A "
    one, other = scores(load("clip"), [Row(Path("a.png"), tuple(map(make_caption, texts)))])
    assert abs(one - other) > 1e-6


def test_an_embedding_that_is_not_finite_is_an_error():
    encoder = load("clip")
    with torch.no_grad():
        encoder._model.text_projection.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        score(encoder)


def test_embeddings_of_single_tokens_are_an_error(monkeypatch):
    encoder = load("clip")
    monkeypatch.setattr(encoder._model, "get_text_features", lambda input_ids, **_: torch.zeros(*input_ids.shape, 48))
    with pytest.raises(ModelError, match=r"the shape \(2, 32, 48\), not one vector"):
        score(encoder, ROWS[1:])


def test_a_row_says_what_the_model_is():
    encoder = load("siglip2")
    assert encoder.title == f"CLIPScore, {saved('siglip2').name}"
    assert encoder.model_type == "siglip2"
    assert encoder.random_weights


def test_a_model_that_does_not_embed_texts_is_an_error(tiny_llava):
    with pytest.raises(ModelError, match=r"is a 'llava', which does not embed both .* openai/clip"):
        load_dual_encoder(DualEncoderSpec(model=str(tiny_llava)), device="cpu")


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"clipscore\.model: .* cannot be read"):
        load_dual_encoder(DualEncoderSpec(model=str(tmp_path)), device="cpu")


@pytest.mark.parametrize(("kind", "shape"), [("missing", None), ("mismatched", (3, 64))])
def test_weights_that_the_checkpoint_does_not_give_are_an_error(tmp_path, kind, shape):
    folder = shutil.copytree(saved("clip"), tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    if shape is not None:
        weights["text_projection.weight"] = torch.zeros(shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"has 1 {kind} weights for a CLIPModel, first .*text_projection\.weight"):
        load_dual_encoder(DualEncoderSpec(model=str(folder)), device="cpu")


def test_a_checkpoint_without_its_tokenizer_is_an_error(tmp_path):
    folder = shutil.copytree(saved("clip"), tmp_path / "clip")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"not the tokenizer of its 260 tokens \(the one there has 2\)"):
        load_dual_encoder(DualEncoderSpec(model=str(folder)), device="cpu")
