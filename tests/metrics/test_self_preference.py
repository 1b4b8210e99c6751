import pytest

from halspan.metrics.self_preference import family_of_backbone, family_of_generator, self_preference

# AlignBench, table 3, x100: zero-shot rows and their own averages.
ROWS = {
    "Llama-4 109B": ([80.7, 78.6, 77.6, 67.5, 77.2, 59.9, 81.1, 64.7], 73.4),
    "Llama-4 400B": ([81.1, 80.9, 79.0, 71.9, 81.3, 64.7, 83.0, 67.8], 76.2),
    "GPT-5": ([85.4, 86.0, 85.3, 72.3, 85.5, 78.4, 84.9, 72.0], 81.2),
}
COLUMNS = ["sharegpt", "llava", "qwen", "gpt4o", "cogvlm", "llama-4", "sd", "gpt4o-imagen"]


def row(name: str) -> dict[str, float | None]:
    return {generator: value / 100 for generator, value in zip(COLUMNS, ROWS[name][0], strict=True)}


@pytest.mark.parametrize(
    ("detector", "family", "own"),
    [
        ("Llama-4 109B", "llama", 59.9),
        ("Llama-4 400B", "llama", 64.7),
        ("GPT-5", "gpt", (72.3 + 72.0) / 2),
    ],
)
def test_self_preference_is_that_of_the_paper(detector, family, own):
    assert self_preference(row(detector), family) == pytest.approx(own / ROWS[detector][1], abs=0.001)


def test_a_family_without_captions_has_no_self_preference():
    assert self_preference(row("GPT-5"), "gemma") is None


def test_generators_without_a_figure_are_in_neither_mean():
    figures = row("Llama-4 109B") | {"sd": None}
    rest = [value for value in figures.values() if value is not None]
    assert self_preference(figures, "llama") == pytest.approx(0.599 / (sum(rest) / 7))
    assert self_preference(figures | {"llama-4": None}, "llama") is None


def test_every_generator_of_alignbench_and_chocolate_has_a_family():
    generators = [*COLUMNS, "gpt4v", "bard", "deplot", "matcha", "unichart", "chartt5"]
    assert [name for name in generators if family_of_generator(name) is None] == []


def test_a_generator_and_a_backbone_of_one_family_meet():
    assert family_of_generator("llama-4") == family_of_backbone("llama4") == family_of_backbone("mllama")
    assert family_of_generator("qwen") == family_of_backbone("qwen2_5_vl")
    assert family_of_generator("llava") == family_of_backbone("llava_onevision")
    assert family_of_generator("narrator") is None
    assert family_of_backbone("bert") is None


def test_every_backbone_family_that_can_be_trained_is_in_the_table():
    from halspan.models.backbones.families import FAMILIES

    assert [model_type for model_type in FAMILIES if family_of_backbone(model_type) is None] == []
