from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from halspan.core.captions import Caption, Sentence
from halspan.core.cost import Cost
from halspan.core.errors import ModelError
from halspan.data.rows import Row
from halspan.evaluation.baselines.baseline_specs import ZeroShotSpec
from halspan.evaluation.baselines.zero_shot import ZeroShot, answer_tokens, load_zero_shot
from halspan.models.backbones.loading import TINY_LLAMA4, load_backbone
from halspan.testing.tiny_detectors import saved
from halspan.testing.tiny_families import PROMPTS
from halspan.testing.tiny_models import TEXTS, byte_tokenizer, make_caption, make_image, spec_maker

ROOT = Path(__file__).parents[2]
IMAGES = {Path("a.png"): make_image(0), Path("b.png"): make_image(1, width=64, height=128)}
PLAIN = make_caption("A man rides a red horse. He wears a hat.")
ROWS = (Row(Path("a.png"), (PLAIN, make_caption("No."))), Row(Path("b.png"), (PLAIN,)))
QUESTION = "Is this sentence about the image correct? Answer with yes or no."
BYTES = {"yes": ["y", "Y"], "no": ["n", "N"]}  # with one token for each byte, " yes" and " no" begin the same
ANSWERS = {"llama4": {"yes": ["y", "Y", "Ġy"], "no": ["n", "N"]}}  # which has a token for " y"

# transformers' PaliGemma processor makes an array of a tensor as numpy 1 did
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
families = pytest.mark.parametrize("name", PROMPTS)


def spec_of(backbone: str, *, max_tokens: int = 512, **changes) -> ZeroShotSpec:
    return ZeroShotSpec(model=spec_maker(backbone, "not used")(max_tokens=max_tokens), **changes)


def load(name: str, **changes) -> ZeroShot:
    return load_zero_shot(spec_of(saved(name), **changes), device="cpu")


def score(asked: ZeroShot, rows: Sequence[Row] = ROWS):
    return list(asked.score(rows, read_image=IMAGES.__getitem__))


def scores(asked: ZeroShot, rows: Sequence[Row] = ROWS) -> list[float | None]:
    return [sentence.p_incorrect for prediction, _ in score(asked, rows) for sentence in prediction.sentences]


def in_words(name: str, sentence: str) -> str:
    """Write out a prompt: Llama-4's processor has a chat template, the others' have none."""
    if name == "llama4":
        turn = f"<|header_start|>user<|header_end|>\n\n<|image|>{QUESTION}\n{sentence}<|eot|>"
        return f"<|begin_of_text|>{turn}<|header_start|>assistant<|header_end|>\n\n"
    placeholder = PROMPTS[name].removesuffix("What?").removeprefix("<|vision_start|>").removesuffix("<|vision_end|>")
    return f"{placeholder}{QUESTION}\n{sentence}\nAnswer:"


def by_hand(asked: ZeroShot, texts: Sequence[str], answers: dict[str, list[str]]) -> list[float]:
    """Ask about one whole text after the other through the processor, and add up probabilities of the next token."""
    processor, model = asked._encoder._processor, asked._model
    p_incorrect = []
    for path, text in zip([*["a.png"] * (len(texts) - 2), *["b.png"] * 2], texts, strict=True):
        inputs = processor(text=[text], images=[IMAGES[Path(path)]], return_tensors="pt")
        inputs.pop("labels", None)
        with torch.no_grad():
            next_token = model(**inputs).logits[0, -1].softmax(dim=-1)
        p = {answer: sum(next_token[processor.tokenizer.vocab[token]] for token in answers[answer]) for answer in BYTES}
        p_incorrect.append(float(p["no"] / (p["yes"] + p["no"])))
    return p_incorrect


SENTENCES = ("A man rides a red horse.", "He wears a hat.", "No.", "A man rides a red horse.", "He wears a hat.")


@families
def test_p_incorrect_is_that_of_the_models_own_next_token_in_all_families(name):
    asked = load(name)
    expected = by_hand(asked, [in_words(name, sentence) for sentence in SENTENCES], ANSWERS.get(name, BYTES))
    assert scores(asked) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[3]) > 1e-4, "the image has no effect"
    assert abs(expected[0] - expected[1]) > 1e-4, "the sentence has no effect"


@families
def test_a_score_does_not_depend_on_what_is_read_with_it_in_all_families(name):
    rows = (*ROWS, Row(Path("b.png"), tuple(map(make_caption, TEXTS))))
    together = scores(load(name, batch_prompts=4), rows)
    assert together == pytest.approx(scores(load(name, batch_prompts=1), rows), abs=1e-4)
    assert None not in together


@families
def test_the_cost_is_what_the_model_reads_in_all_families(name):
    asked = load(name, batch_prompts=2)
    passes = []
    asked._model.register_forward_pre_hook(lambda _, args, inputs: passes.append(inputs), with_kwargs=True)
    cost = sum((cost for _, cost in score(asked)), Cost())
    assert cost.sentences == cost.image_encodings == 5
    assert cost.tokens == sum(int(inputs["attention_mask"].sum()) for inputs in passes)
    pictures = {}  # how much of each image is read with a prompt: tiles or patches
    for inputs, path, n in zip(passes, "aab", (2, 1, 2), strict=True):
        assert len(inputs["input_ids"]) == n
        assert len(inputs["pixel_values"]) % n == 0
        pictures.setdefault(path, set()).add(len(inputs["pixel_values"]) // n)
    assert all(len(sizes) == 1 for sizes in pictures.values())  # with every prompt the whole image


@families
def test_a_placeholder_in_a_sentence_is_text_in_all_families(name):
    asked = load(name)
    processor = asked._encoder._processor
    tricky = f"A sign says {processor.image_token} and {processor.tokenizer.pad_token}."
    seen = []
    asked._model.register_forward_pre_hook(lambda _, args, inputs: seen.append(inputs), with_kwargs=True)
    scores(asked, [Row(Path("a.png"), (make_caption("A sign."),)), Row(Path("a.png"), (make_caption(tricky),))])
    plain, placeholder = (inputs["input_ids"][0] for inputs in seen)
    specials = torch.tensor(processor.tokenizer.all_special_ids)
    assert torch.isin(plain, specials).sum() == torch.isin(placeholder, specials).sum()
    assert tricky in processor.tokenizer.decode(placeholder, skip_special_tokens=False)


@families
def test_random_weights_say_so_after_saving_in_all_families(name):
    assert load(name).random_weights


def test_tokens_are_counted_by_hand():
    # bytes of the question 64 and of "\n" and "\nAnswer:" 1 + 8, image tokens 16; of the sentences 24, 15 and 3
    assert len(QUESTION) == 64
    first, second, third = (cost for _, cost in score(load("llava")))
    assert first == third == Cost(2, 2 * 89 + 24 + 15, 2)
    assert second == Cost(1, 89 + 3, 1)


def test_a_sentence_is_asked_about_without_its_caption():
    alone = [Row(Path("a.png"), (make_caption(text),)) for text in SENTENCES[1::-1]]
    assert scores(load("llava"), alone) == pytest.approx(scores(load("llava"))[1::-1], abs=1e-6)


def test_a_sentence_whose_prompt_does_not_fit_stays_unscored_with_the_reason():
    # 89 tokens beside the sentence, and one that keeps its place: 15 of "He wears a hat." make 105, 24 of the other 114
    (first, cost), *_ = score(load("llava", max_tokens=105))
    assert first.sentences[0].p_incorrect is None
    assert first.sentences[0].unscored == "does not fit the window of 105 tokens"
    assert first.sentences[1] == score(load("llava"))[0][0].sentences[1]
    assert cost == Cost(1, 104, 1)


def test_a_sentence_without_text_stays_unscored_with_the_reason():
    caption = Caption("a", "a.png", "g", "image_to_text", "A.  ", (Sentence(0, 2), Sentence(2, 4)))
    ((prediction, cost),) = score(load("llava"), [Row(Path("a.png"), (caption,))])
    assert [sentence.unscored for sentence in prediction.sentences] == [None, "there is no text in it"]
    assert cost.sentences == 1


def test_a_chat_template_words_the_turn_of_the_user():
    spec = spec_of(saved("llava"))
    backbone = load_backbone(spec.model)
    backbone.processor.chat_template = (
        "{% for part in messages[0]['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else 'USER: ' + part['text'] }}{% endfor %} ASSISTANT:"
    )
    asked = ZeroShot(backbone, spec)
    texts = [f"<image>USER: {QUESTION}\n{sentence} ASSISTANT:" for sentence in SENTENCES]
    assert scores(asked) == pytest.approx(by_hand(asked, texts, BYTES), abs=1e-5)


def test_a_question_that_shows_the_image_is_taken_as_it_is():
    question = PROMPTS["qwen2_5_vl"].replace("What?", "True?")
    asked = load("qwen2_5_vl", question=question)
    texts = [f"{question}\n{sentence}\nAnswer:" for sentence in SENTENCES]
    assert scores(asked) == pytest.approx(by_hand(asked, texts, BYTES), abs=1e-5)


def test_an_answer_that_may_begin_both_ways_counts_for_neither():
    yes, no = answer_tokens(byte_tokenizer())
    vocabulary = byte_tokenizer().vocab
    assert sorted(yes.tolist()) == sorted(vocabulary[token] for token in BYTES["yes"])
    assert sorted(no.tolist()) == sorted(vocabulary[token] for token in BYTES["no"])


def test_a_tokenizer_that_cannot_tell_yes_from_no_is_an_error():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "yes": 1}, unk_token="<unk>"))
    with pytest.raises(ModelError, match="cannot tell them apart"):
        answer_tokens(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))


def test_a_tokenizer_without_padding_is_an_error():
    spec = spec_of(saved("llava"))
    backbone = load_backbone(spec.model)
    backbone.processor.tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no padding token"):
        ZeroShot(backbone, spec)


def test_a_question_that_holds_the_padding_token_is_an_error():
    with pytest.raises(ModelError, match="stands 2 times in the prompt"):
        score(load("llava", question="Is <pad> correct?"))


def test_an_answer_that_is_not_finite_is_an_error():
    asked = load("llava")
    with torch.no_grad():
        asked._model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        score(asked)


def test_a_window_is_not_longer_than_the_models_own():
    ((prediction, _),) = score(load("llava", max_tokens=4096), [Row(Path("a.png"), (make_caption("A" * 600),))])
    assert prediction.sentences[0].unscored == "does not fit the window of 512 tokens"


def test_4_bits_and_half_precision_give_about_the_same_answers():
    exact = spec_of(TINY_LLAMA4)
    coarse = replace(exact, model=replace(exact.model, dtype="bfloat16", quantize="nf4"))
    of_exact, of_coarse = (scores(load_zero_shot(spec, device="cpu")) for spec in (exact, coarse))
    assert of_coarse == pytest.approx(of_exact, abs=0.1)


@pytest.mark.parametrize("backbone", [TINY_LLAMA4, str(ROOT / "checkpoints" / "shapes_backbone")])
def test_a_row_says_what_the_model_is_and_whether_it_was_trained(backbone):
    asked = load_zero_shot(spec_of(backbone), device="cpu")
    assert asked.title == f"zero-shot, {Path(backbone).name}"
    assert asked.model_type == ("llama4" if backbone == TINY_LLAMA4 else "llava")
    assert asked.random_weights == (backbone == TINY_LLAMA4)
    assert all(0 < p_incorrect < 1 for p_incorrect in scores(asked))
