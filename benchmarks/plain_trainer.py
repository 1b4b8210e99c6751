"""Training by transformers' `Trainer` with PEFT, one caption a row, for `benchmarks/training.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from small_llava import TAXONOMY
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from training_plan import LOSS, OPTIMIZER, SEED, Outcome, Plan, build, differences, make_rows, peak_mib

from halspan.core.captions import Caption
from halspan.core.losses import Logits, Targets, combine, loss_terms
from halspan.data.images import load_image
from halspan.data.rows import Row, batches
from halspan.models.heads.comparing import TokenHead
from halspan.models.heads.pooling import SentenceHead
from halspan.models.inputs.batch import Batch
from halspan.models.inputs.encoding import RowEncoder
from halspan.training.encoding import EncodeRows
from halspan.training.optimizer import build_optimizer


class CaptionClassifier(nn.Module):
    """A backbone with adapters from PEFT, and heads on its last states: one caption of one image in each row."""

    def __init__(self, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import LlavaModel

        super().__init__()
        base = LlavaModel.from_pretrained(folder, attn_implementation="sdpa")
        adapters = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules=r".*language_model.*\.([qkvo]|gate|up|down)_proj"
        )
        self.backbone = get_peft_model(base, adapters)
        hidden = base.config.get_text_config().hidden_size
        self.token_head = TokenHead(hidden, len(TAXONOMY))
        self.sentence_head = SentenceHead(hidden)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        places: Tensor,
        sentence_tokens: Tensor,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Return the loss; `places` are the row and position of each caption token, and of the state before it."""
        states = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, use_cache=False
        ).last_hidden_state
        row, place = places
        words = self.backbone.get_input_embeddings()(input_ids[row, place])  # tied to the vocabulary head
        of_tokens = states[row, place]
        token, types = self.token_head(of_tokens, states[row, place - 1], words)
        sentence = self.sentence_head(of_tokens, token, sentence_tokens)
        return {"loss": combine(loss_terms(Logits(token=token, type=types, sentence=sentence), targets, LOSS), LOSS)}


@dataclass(frozen=True)
class Collate:
    """Collator of captions: each is a row with its own image, padded to the longest."""

    encoder: RowEncoder

    def __call__(self, items: Sequence[tuple[Path, Caption]]) -> dict[str, Any]:
        """Return the inputs of a `CaptionClassifier`."""
        encoded = [self.encoder.encode(load_image(image), [caption]) for image, caption in items]
        batch: Batch = self.encoder.collate(encoded)
        return {
            "input_ids": batch.inputs["input_ids"],
            "attention_mask": (batch.segments != -2).long(),  # not padding
            "pixel_values": batch.inputs["pixel_values"],
            "places": torch.stack([batch.token_row, batch.token_position]),
            "sentence_tokens": batch.sentence_tokens,
            "targets": batch.targets,
        }


def train_with_trainer(plan: Plan, folder: Path) -> Outcome:
    """Train with transformers' `Trainer`."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Times(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    class InOrder(Trainer):  # type: ignore[misc]  # transformers is untyped here
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset or self.train_dataset)

    rows = make_rows(plan, folder)
    model, encoder = same_start(plan)
    times: list[float] = []
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=plan.images_per_step * plan.work.captions,
        max_steps=plan.steps,
        max_grad_norm=OPTIMIZER.clip_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=SEED,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=in_order(plan, rows, encoder),
        data_collator=Collate(encoder),
        optimizers=optimizer_of(model, plan.steps),
        callbacks=[Times()],
    )
    before, start = peak_mib(), time.process_time()
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return Outcome(seconds=differences([start, *times]), losses=losses, peak=peak_mib(), before=before)


def same_start(plan: Plan) -> tuple[CaptionClassifier, RowEncoder]:
    """Build the other model with the detector's first weights."""
    detector, encoder = build(plan)
    model = CaptionClassifier(plan.folder)
    own = {
        name.replace("base_model.model.model.", "base_model.model.", 1): parameter
        for name, parameter in detector.trainable_state_dict().items()
    }
    result = model.load_state_dict(own, strict=False)
    missing = [name for name in result.missing_keys if "lora_" in name or "_head." in name]
    if missing or result.unexpected_keys:
        raise SystemExit(f"the models differ: {[*missing, *result.unexpected_keys][:3]}")
    return model, encoder


def in_order(plan: Plan, rows: Sequence[Row], encoder: RowEncoder) -> list[tuple[Path, Caption]]:
    """Return the captions in the order in which halspan's steps have them."""
    lengths = EncodeRows(encoder, load_image).measure(rows)
    steps_per_epoch = -(-len(rows) // plan.images_per_step)
    order: list[int] = []
    for epoch in range(-(-plan.steps // steps_per_epoch)):
        for step in batches(lengths, rows_per_batch=plan.images_per_step, seed=SEED, epoch=epoch):
            order += step
    return [(rows[number].image, caption) for number in order for caption in rows[number].captions]


def optimizer_of(model: nn.Module, steps: int) -> Any:
    """Build halspan's optimizer and schedule for another model."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return build_optimizer(
        OPTIMIZER,
        lora=[parameter for name, parameter in trained if name.startswith("backbone.")],
        heads=[parameter for name, parameter in trained if not name.startswith("backbone.")],
        total_steps=steps,
    )
