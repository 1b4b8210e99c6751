"""What identifies kept features: whatever changes them changes the key, and what cannot be kept is refused."""

from typing import Any

import pytest
import torch

from halspan.core.errors import ConfigError
from halspan.models.detector import SpanDetector
from halspan.models.inputs.encoding import RowEncoder
from halspan.models.kept import keeping
from halspan.models.kept.keeping import find_obstacle, identify, open_keeper
from halspan.models.kept.store import Store
from halspan.models.model_spec import LoraSpec
from halspan.testing.tiny_detectors import build, spec_of
from halspan.testing.tiny_families import PROMPTS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Built = tuple[SpanDetector, RowEncoder]


@pytest.fixture(scope="module")
def llava() -> Built:
    return build("llava")


def key(built: Built, *, autocast: torch.dtype | None = None, device: str = "cpu", **changes: Any) -> str:
    return identify(*built, spec_of("llava", **changes), autocast=autocast, device=device)


def test_the_same_settings_have_the_same_key_whatever_is_trained_or_read_above(llava):
    assert key(llava) == key(llava)
    above = {"seed": 3, "context": "echo", "read_layer": 1, "lora": None}
    assert key(build("llava", **above), **{k: v for k, v in above.items() if k != "seed"}) == key(llava)


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector", "embed_tokens"])
def test_one_changed_weight_in_the_middle_is_another_key(llava, part):
    before = key(llava)
    tensors = llava[0].tensors_below_decoder()
    weight = max((t for path, t in tensors.items() if part in path), key=lambda tensor: tensor.numel()).data.view(-1)
    old = float(weight[len(weight) // 2])
    weight[len(weight) // 2] = old + 1e-3
    changed = key(llava)
    weight[len(weight) // 2] = old
    assert changed != before == key(llava)


def test_a_changed_weight_of_the_decoder_is_the_same_key(llava):
    paths = llava[0].tensors_below_decoder()
    assert not any((".layers." in path and "language_model" in path) or "lora_" in path for path in paths)
    assert sum("embed_tokens" in path for path in paths) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"attention": "sdpa"},
        {"image": {"do_normalize": False}},
        {"prompt": "<image>Where?"},
    ],
)
def test_another_setting_is_another_key(llava, changes):
    assert key(build("llava", **changes), **changes) != key(llava)


@pytest.mark.parametrize("changes", [{"autocast": torch.bfloat16}, {"device": "cuda"}])
def test_another_machine_is_another_key(llava, changes):
    assert key(llava, **changes) != key(llava)


def test_another_version_is_another_key(llava, monkeypatch):
    before = key(llava)
    monkeypatch.setattr(keeping, "version", lambda name: "0.0" if name == "transformers" else "1")
    other = key(llava)
    monkeypatch.setattr(keeping, "version", lambda name: "0.1" if name == "transformers" else "1")
    assert len({before, other, key(llava)}) == 3


def test_processors_settings_and_tokenizers_are_in_the_key(llava):
    before = key(llava)
    processor = llava[1].processor
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    changed = key(llava)
    assert changed != before
    processor.tokenizer.add_tokens(["horse"])
    assert key(llava) != changed


@pytest.mark.parametrize("name", PROMPTS)
def test_features_of_all_families_can_be_kept(name):
    built = build(name)
    assert find_obstacle(*built) is None
    own, other = (identify(*built, spec_of(name), autocast=None, device=device) for device in ("cpu", "cuda"))
    assert own == identify(*build(name), spec_of(name), autocast=None, device="cpu") != other


@pytest.mark.parametrize(("target", "part"), [("vision", "vision tower"), ("projector", "projector")])
def test_features_of_what_is_trained_are_refused(tmp_path, caplog, target, part):
    lora = LoraSpec(r=2, alpha=4, dropout=0.0, targets=["language", target])
    built, rest = build("llava", lora=lora), {"store": Store(tmp_path, gib=1), "autocast": None, "device": "cpu"}
    with pytest.raises(ConfigError, match=rf"trainer\.keep_images: true, but the {part} is trained .*'{target}'"):
        open_keeper(*built, spec_of("llava", lora=lora), is_on=True, **rest)
    with caplog.at_level("INFO"):
        assert open_keeper(*built, spec_of("llava", lora=lora), is_on=False, **rest) is None
    assert f"not kept: the {part} is trained" in caplog.text


def test_a_backbone_whose_decoder_gets_more_of_the_image_is_refused_by_name(llava):
    detector = build("llava")[0]
    model = detector.base_model.model
    forward = type(model).forward

    def with_a_shift(pixel_values: Any = None, **named: Any) -> Any:
        shift = 0 if pixel_values is None else 1
        return forward(model, pixel_values=pixel_values, **named | {"position_ids": named["position_ids"] + shift})

    model.forward = with_a_shift
    assert "'llava' gives its decoder other inputs" in str(find_obstacle(detector, llava[1]))


def test_dropout_in_the_vision_tower_is_refused(llava):
    detector = build("llava")[0]
    detector.base_model.config.vision_config.attention_dropout = 0.1
    assert find_obstacle(detector, llava[1]) == "the vision tower has dropout (attention_dropout 0.1)"
