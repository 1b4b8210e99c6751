import pytest
import torch
from small_runs import run, small_overrides
from tiny_llama4 import tiny_spec

from halspan.app.configuration import configure
from halspan.core.errors import ConfigError, DataError, ModelError
from halspan.core.loss_weights import LossWeights
from halspan.models.detector import build_detector
from halspan.models.model_spec import LoraSpec
from halspan.testing.small_corpora import write_corpus
from halspan.training.fit import check_machine, fit
from halspan.training.module import DetectorModule, load_trained, seed_step


def detector(*, r, targets=("language",)):
    spec = tiny_spec(lora=LoraSpec(r=r, alpha=4, dropout=0.0, targets=list(targets)) if r else None)
    return build_detector(spec, ("Attribute",))[0]


def save(detector, path):
    """Save what a run saves of a detector."""
    checkpoint = {}
    DetectorModule(detector, optimizer=None, loss=LossWeights(), total_steps=1, seed=1).on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)


def test_trained_weights_come_back_exactly(tmp_path):
    torch.manual_seed(1)
    first, second = detector(r=2), detector(r=2)
    save(first, tmp_path / "best.ckpt")
    load_trained(second, tmp_path / "best.ckpt")
    state = first.trainable_state_dict()
    for name, value in second.trainable_state_dict().items():
        assert torch.equal(value, state[name])


def test_a_checkpoint_of_another_detector_is_refused_with_what_differs_by_component(tmp_path):
    save(detector(r=2), tmp_path / "best.ckpt")
    n_trained = sum(p.numel() for name, p in detector(r=2).named_parameters() if "lora_" in name)
    with pytest.raises(
        ModelError, match=rf"language tower: {n_trained:,} instead of 0; use it with the model\.\* keys"
    ):
        load_trained(detector(r=None), tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match=rf"language tower: {n_trained:,} instead of {2 * n_trained:,};"):
        load_trained(detector(r=4), tmp_path / "best.ckpt")


def test_as_many_parameters_at_other_places_are_refused_too(tmp_path):
    first, second = (detector(r=2, targets=[rf"language_model\.model\.layers\.{n}\.self_attn\.q_proj"]) for n in (0, 1))
    save(first, tmp_path / "best.ckpt")
    with pytest.raises(ModelError, match=r"2 weights that this detector does not train .* lacks 2"):
        load_trained(second, tmp_path / "best.ckpt")


def test_a_loss_that_is_no_number_any_more_stops_training(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(ModelError, match=r"the loss is (nan|inf) at optimizer step 1; lower optimizer\.lora_lr"):
        run(
            *small_overrides(corpus),
            "optimizer.head_lr=1e30",
            "optimizer.warmup_fraction=0",
            f"run_dir={tmp_path / 'run'}",
        )


def test_what_a_step_draws_follows_from_seed_process_and_step_alone():
    def draw(seed, process, step):
        seed_step(seed, process=process, step=step)
        return tuple(torch.rand(4).tolist())

    places = [(seed, process, step) for seed in (0, 1, 2**32 - 1) for process in (0, 1) for step in (0, 1, 5000)]
    first = [draw(*place) for place in places]
    torch.rand(3)
    assert [draw(*place) for place in reversed(places)] == first[::-1]
    assert len(set(first)) == len(places)


def test_training_needs_a_row_to_train_on_and_one_to_validate_on():
    with pytest.raises(DataError, match="0 training rows and 1 validation rows"):
        fit(
            None,
            train=[],
            val=[None],
            encode=tuple,
            tokens_per_pass=1,
            run=None,
            trainer=None,
            optimizer=None,
            loss=LossWeights(),
            curves=None,
            seed=0,
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    from small_runs import configuration

    spec = configure.build(configuration("trainer=gpu").trainer, "trainer")
    with pytest.raises(ConfigError, match="1 GPUs asked for, 0 visible"):
        check_machine(spec)
