import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoProcessor, AutoTokenizer

from halspan.core.captions import Caption, Sentence, Span
from halspan.core.errors import DataError, ModelError
from halspan.models.backbones.loading import load_backbone
from halspan.models.inputs.encoding import RowEncoder, render_prompt
from halspan.testing.tiny_models import TAXONOMY, TEXTS, make_caption, make_image, spec_maker

N_IMAGE_TOKENS = 9


@pytest.fixture(scope="module")
def processor(tiny_llava):
    return AutoProcessor.from_pretrained(tiny_llava, backend="pil")


@pytest.fixture(scope="module")
def make_encoder(tiny_llava, processor):
    make = spec_maker(str(tiny_llava), "<image>")
    return lambda **changes: RowEncoder(processor, make(**changes), TAXONOMY)


def encode(encoder: RowEncoder, *captions: Caption, **options):
    return encoder.encode(make_image(), captions, **options)


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_point_at_the_characters_that_the_bytes_spell(make_encoder, text):
    caption = encode(make_encoder(), make_caption(text)).captions[0]
    # one token for each byte: what readers see as one character has as many tokens as UTF-8 gives it bytes
    expected = [match.span() for match in regex.finditer(r"\X", text) for _ in match[0].encode()]
    assert caption.offsets.tolist() == [list(pair) for pair in expected]


def test_characters_that_the_tokenizer_composes_keep_their_parts(tiny_llava, make_llava_spec):
    own = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    own.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # as Qwen's
    text = unicodedata.normalize("NFD", "말")
    encoded = encode(RowEncoder(own, make_llava_spec(), TAXONOMY), make_caption(text)).captions[0]
    assert encoded.offsets.tolist() == [[0, 3]] * len("말".encode())


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_offsets_cover_any_text_in_order(make_encoder, text):
    caption = encode(make_encoder(), Caption("1", "i", "g", "image_to_text", text, (Sentence(0, len(text)),)))
    offsets = caption.captions[0].offsets
    assert (np.diff(offsets[:, 0]) >= 0).all()
    assert "".join(text[start:end] for start, end in dict.fromkeys(map(tuple, offsets.tolist()))) == text


def test_a_placeholder_written_in_a_caption_is_text(make_encoder, processor):
    row = encode(make_encoder(), make_caption("An <image> here."))
    assert (row.prompt == processor.image_token_id).sum() == N_IMAGE_TOKENS
    assert processor.image_token_id not in row.captions[0].ids


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_on_which_the_tokenizer_pads_does_not_matter(tiny_llava, make_llava_spec, side):
    rows = []
    for padding_side in (side, "right"):
        tokenizer = AutoTokenizer.from_pretrained(tiny_llava, padding_side=padding_side)
        own = AutoProcessor.from_pretrained(tiny_llava, backend="pil", tokenizer=tokenizer)
        own.tokenizer.padding_side = padding_side
        encoder = RowEncoder(own, make_llava_spec(), TAXONOMY)
        rows.append(encoder.collate([encode(encoder, *map(make_caption, TEXTS)), encode(encoder, make_caption("A."))]))
    assert rows[0].inputs["input_ids"].equal(rows[1].inputs["input_ids"])
    assert rows[0].segments.equal(rows[1].segments)


def test_sentences_that_do_not_fit_the_window_are_unscored(make_encoder):
    caption = make_caption("abc. defg. hi.", label="incorrect", spans=(Span(5, 9),))
    n_first, n_second = len("abc."), len("abc. defg.")
    for room, kept, n_unscored in [(3, 0, 3), (4, 4, 2), (9, 5, 2), (10, 10, 1), (13, 11, 1), (14, 14, 0)]:
        encoded = encode(make_encoder(max_tokens=N_IMAGE_TOKENS + room), caption).captions[0]
        assert len(encoded.ids) == len(encoded.offsets) == kept
        assert [reason is not None for reason in encoded.unscored] == [False] * (3 - n_unscored) + [True] * n_unscored
        assert encoded.targets is not None
        assert encoded.targets.sentence_mask.tolist() == [reason is None for reason in encoded.unscored]
        assert encoded.targets.token.sum() == (4 if kept >= n_second else 0)
    assert n_first < n_second


def test_the_reason_names_the_window(make_encoder):
    encoded = encode(make_encoder(max_tokens=12), make_caption("A long sentence."))
    assert encoded.captions[0].unscored == ("does not fit the window of 12 tokens",)


def test_an_echoed_caption_needs_twice_the_room(make_encoder):
    caption = make_caption("abc. defg.")
    whole = encode(make_encoder(context="echo", max_tokens=N_IMAGE_TOKENS + 20), caption).captions[0]
    cut = encode(make_encoder(context="echo", max_tokens=N_IMAGE_TOKENS + 19), caption).captions[0]
    assert whole.unscored == (None, None)
    assert cut.unscored[0] is None
    assert cut.unscored[1] is not None


def test_text_behind_the_last_sentence_is_cut_at_the_window(make_encoder):
    caption = Caption("1", "i", "g", "image_to_text", "abc. tail", (Sentence(0, 4),))
    encoded = encode(make_encoder(max_tokens=N_IMAGE_TOKENS + 6), caption).captions[0]
    assert len(encoded.ids) == 6
    assert encoded.unscored == (None,)


def test_a_sentence_in_which_the_tokenizer_finds_nothing_is_unscored(make_encoder):
    caption = Caption("1", "i", "g", "image_to_text", "a b", (Sentence(0, 1), Sentence(1, 2)))
    assert encode(make_encoder(), caption).captions[0].unscored == (None, "the tokenizer finds no token in it")


def test_a_window_that_the_prompt_fills_is_an_error(make_encoder):
    with pytest.raises(ModelError, match=r"model.max_tokens: 9 leaves no room .* prompt of 9 tokens"):
        encode(make_encoder(max_tokens=N_IMAGE_TOKENS), make_caption("A."))


def test_types_outside_the_taxonomy_matter_only_where_targets_are_asked_for(make_encoder):
    caption = make_caption("A man.", label="incorrect", spans=(Span(0, 1, "Color"),))
    with pytest.raises(DataError, match="'Color' is not in the taxonomy"):
        encode(make_encoder(), caption)
    row = encode(make_encoder(), caption, targets=False)
    assert make_encoder().collate([row]).targets is None


def test_an_encoded_caption_is_kept_and_a_changed_one_is_encoded_again(make_encoder):
    encoder = make_encoder()
    first, again = (encode(encoder, make_caption("A man.")).captions[0] for _ in range(2))
    labeled = encode(encoder, make_caption("A man.", label="incorrect")).captions[0]
    assert first is again
    assert labeled.targets is not None
    assert labeled.targets.sentence.tolist() == [1.0]


def test_settings_of_the_image_processor_reach_it(make_encoder):
    flat = make_encoder(image={"do_normalize": False, "do_rescale": False})
    assert encode(flat, make_caption("A.")).image_inputs["pixel_values"].max() > 100
    assert encode(make_encoder(), make_caption("A.")).image_inputs["pixel_values"].max() < 3


def test_a_setting_that_the_image_processor_does_not_have_is_an_error_that_lists_what_there_is(make_encoder):
    with pytest.raises(ModelError, match=r"model.image.tiles: SiglipImageProcessorPil has no such .*do_resize.* size"):
        make_encoder(image={"tiles": 4})


def test_a_prompt_with_the_placeholder_is_taken_as_it_is(processor):
    assert render_prompt(processor, "Look: <image>") == "Look: <image>"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("What is wrong?", "does not hold the image placeholder '<image>', and this processor has no chat template"),
        ("<image> and <image>", "shows the image 2 times"),
    ],
)
def test_a_prompt_that_does_not_show_the_image_once_is_an_error(processor, prompt, message):
    with pytest.raises(ModelError, match=message):
        render_prompt(processor, prompt)


def test_a_prompt_without_the_placeholder_becomes_a_users_turn():
    spec = spec_maker("builtin:llama4-tiny", "What is wrong?")()
    processor = load_backbone(spec).processor
    assert render_prompt(processor, spec.prompt) == (
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\n<|image|>What is wrong?<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n"
    )
    row = encode(RowEncoder(processor, spec, TAXONOMY), make_caption("A."))
    bos = processor.tokenizer.bos_token_id
    assert row.prompt.tolist().count(bos) == 1


def test_no_more_captions_are_kept_than_memory_allows(make_encoder, monkeypatch):
    monkeypatch.setattr("halspan.models.inputs.encoding._MOST_CACHED", 1)
    encoder = make_encoder()
    first, _, again = (encode(encoder, make_caption(text)).captions[0] for text in ("A.", "B.", "A."))
    assert first is not again
    assert first.ids.tolist() == again.ids.tolist()
