"""The LightningModule: one optimizer step over a global batch, the validation loss, and checkpoint contents."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor
from typing_extensions import override

from halspan.core.errors import ModelError
from halspan.core.loss_weights import LossWeights
from halspan.core.losses import TERMS, Targets, Term, combine, count_terms, loss_terms
from halspan.metrics.torchmetrics import SentenceAuroc, TokenF1
from halspan.models.detector import SpanDetector
from halspan.models.inputs.batch import Batch
from halspan.training.checkpoints import read_checkpoint
from halspan.training.datamodule import RowData
from halspan.training.ends import is_memory_short
from halspan.training.optimizer import build_optimizer
from halspan.training.private_lightning import count_steps_as
from halspan.training.profiling import FORWARD, timed
from halspan.training.run_spec import OptimizerSpec

logger = logging.getLogger(__name__)

_PREFIX = "detector."


class DetectorModule(pl.LightningModule):
    """A detector in training.

    Loss terms are divided by their counts over the whole global batch (all passes of all devices), so the gradient
    does not depend on how the batch is spread.

    Args:
        detector: Detector to train; frozen weights stay as they are and are left out of checkpoints.
        optimizer: Rates, decay and schedule.
        loss: Weights of the loss terms.
        total_steps: Optimizer steps of the whole run.
        seed: Seed of the run; with the step and the process, it alone determines dropout.
        generators: Generators of the validation captions.
    """

    def __init__(
        self,
        detector: SpanDetector,
        *,
        optimizer: OptimizerSpec,
        loss: LossWeights,
        total_steps: int,
        seed: int,
        generators: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints lack frozen weights; on_load_checkpoint checks the others
        self.detector = detector
        self._optimizer_spec = optimizer
        self._loss_weights = loss
        self._total_steps = total_steps
        self._seed = seed
        self._halvings = 0
        self._val_sums = torch.zeros(len(TERMS), 2, dtype=torch.float64)
        self._val_auroc = SentenceAuroc(generators)
        self._val_token_f1 = TokenF1()

    @property
    def halvings(self) -> int:
        """Return how often memory was too short for a pass, on all devices, and passes were halved.

        Steps before the checkpoint of a resumed run count.
        """
        return self._halvings

    @override
    def configure_optimizers(self) -> Any:
        trained = [(name, parameter) for name, parameter in self.detector.named_parameters() if parameter.requires_grad]
        optimizer, schedule = build_optimizer(
            self._optimizer_spec,
            lora=[parameter for name, parameter in trained if name.startswith("backbone.")],
            heads=[parameter for name, parameter in trained if not name.startswith("backbone.")],
            total_steps=self._total_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_train_batch_start(self, batch: Sequence[Batch], batch_idx: int) -> None:
        """Make curves count the steps taken; Lightning loses one when a finished run is extended."""
        count_steps_as(self.trainer, self.trainer.global_step)

    @override
    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> None:
        """Take one optimizer step over this device's share of a global batch, in one or several passes."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        with timed("exchange between devices"):
            counts = self._count_globally(batch)
        loss, halvings = self._accumulate_in_memory(batch, counts)
        with timed("exchange between devices"):
            self._exchange_gradients()
        if self._optimizer_spec.clip_norm is not None:
            self.clip_gradients(optimizer, self._optimizer_spec.clip_norm, "norm")
        self._log_step(loss, halvings, [group["lr"] for group in optimizer.param_groups])
        with timed("optimizer"):
            optimizer.step()
            schedule.step()

    @override
    def on_validation_epoch_start(self) -> None:
        self._val_sums = torch.zeros(len(TERMS), 2, dtype=torch.float64, device=self.device)

    @override
    def validation_step(self, batch: Sequence[Batch], batch_idx: int) -> None:
        """Add the loss terms of this device's share, and the scores of its sentences and tokens."""
        for part in batch:
            logits, targets = self.detector(part), _targets(part)
            self._val_auroc.update(*_labeled_sentences(logits.sentence, part, self._val_auroc.generators))
            self._val_token_f1.update(targets.token > 0, logits.token > 0, targets.token_mask)
            terms = loss_terms(logits, targets, self._loss_weights)
            self._val_sums += torch.stack([torch.stack([term.total, term.count]) for term in terms.values()])

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the loss over the whole validation part, the mean of each term in use, and figures.

        The loss is in nats. AUROC is the mean over generators, from uncalibrated scores; F1 of tokens is at
        P(hallucinated) 0.5.
        """
        if self.detector.lockstep is not None:
            self.detector.lockstep.catch_up()
        sums = self._sum_over_devices(self._val_sums)
        terms = {name: Term(total, count.long()) for name, (total, count) in zip(TERMS, sums, strict=True)}
        self.log("val/loss", combine(terms, self._loss_weights).float(), prog_bar=True)
        for name, term in terms.items():
            if term.count > 0:
                self.log(f"val/{name}", (term.total / term.count).float())
        for name, metric in (("auroc", self._val_auroc), ("token_f1", self._val_token_f1)):
            if torch.isfinite(figure := metric.compute()):
                self.log(f"val/{name}", figure, prog_bar=name == "auroc")
            metric.reset()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the trained weights, their number in each component, the run's length, and halvings."""
        trained = self.detector.trainable_state_dict()
        checkpoint["state_dict"] = {_PREFIX + name: value for name, value in trained.items()}
        checkpoint["trained"] = _count_trained(self.detector)
        checkpoint["total_steps"] = self._total_steps
        checkpoint["halvings"] = self._halvings

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this detector, and continue to count halvings."""
        _check_trained(self.detector, checkpoint)
        self._halvings = checkpoint.get("halvings") or 0  # checkpoints of earlier versions have no number
        # Lightning would end at once, because it saw the last batch of a run that may now have more
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    @override
    def on_train_start(self) -> None:
        """Set the learning rates of this run's schedule: a checkpoint has those of its own length."""
        self.detector.train()
        schedule: Any = self.lr_schedulers()
        for group, rate, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)

    def repeat(self, batch: Sequence[Batch]) -> None:
        """Run the passes of a step forward and back again, on this device alone; no weight changes."""
        keep, self.detector.on_features = self.detector.on_features, None
        try:
            with self._unsynchronized(), self.trainer.precision_plugin.train_step_context():
                for each in batch:
                    self._backward(each, None)
        finally:
            self.zero_grad()
            self.detector.on_features = keep

    def _accumulate_in_memory(
        self, batch: Sequence[Batch], counts: Mapping[str, Int[Tensor, ""]]
    ) -> tuple[Float[Tensor, ""], int]:
        """Accumulate a step's gradient; where memory is short, in smaller passes from this step on.

        Returns:
            This device's share of the loss, and the number of times that it has halved passes.
        """
        halvings = 0
        while True:
            try:
                return self._accumulate(batch, counts), halvings
            except (MemoryError, RuntimeError) as error:
                # where others wait in the middle of a pass, it cannot begin again
                can_halve = is_memory_short(error) and self.detector.lockstep is None
                smaller = self._halve(batch) if can_halve else ()
                if not smaller:
                    raise
                batch = smaller
                halvings += 1
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # after the block, because the error holds the tensors of the pass

    def _accumulate(self, batch: Sequence[Batch], counts: Mapping[str, Int[Tensor, ""]]) -> Float[Tensor, ""]:
        """Add up the gradient of this device's passes, and return its share of the loss."""
        seed_step(self._seed, process=self.global_rank, step=self.trainer.global_step)
        self.zero_grad()
        with self._unsynchronized():
            loss = torch.stack([self._backward(each, counts) for each in batch]).sum()
            if self.detector.lockstep is not None:
                self.detector.lockstep.catch_up(backward=True)
        return loss

    def _halve(self, batch: Sequence[Batch]) -> tuple[Batch, ...]:
        """Make a step's passes half as large, and those of later steps; empty if a line is too long for that."""
        rows: RowData = self.trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit
        largest = max(part.size for part in batch)
        limit = rows.tokens_per_pass if rows.tokens_per_pass < largest else largest // 2
        smaller = rows.smaller_passes(self.trainer.global_step, tokens_per_pass=limit)
        if max(part.size for part in smaller) >= largest:
            return ()
        logger.warning(
            "memory was too short for a pass of %d tokens at optimizer step %d: passes have at most %d tokens from now "
            "on (trainer.tokens_per_pass=%d would start so)",
            largest,
            self.trainer.global_step + 1,
            limit,
            limit,
        )
        return tuple(part.to(self.device) for part in smaller)

    def _backward(self, batch: Batch, counts: Mapping[str, Int[Tensor, ""]] | None) -> Float[Tensor, ""]:
        """Add one pass's share of the gradient, and return its share of the loss."""
        with timed(FORWARD):
            logits = self.detector(batch)
        with timed("heads and loss"):
            loss = combine(loss_terms(logits, _targets(batch), self._loss_weights), self._loss_weights, counts)
        with timed("backward pass"):
            self.manual_backward(loss)
        return loss.detach()

    def _unsynchronized(self) -> AbstractContextManager[None]:
        """Keep DDP from exchanging gradients: devices may have different numbers of passes."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _exchange_gradients(self) -> None:
        """Sum the gradients over all devices, in one exchange; a device without a gradient adds zeros."""
        if self.trainer.world_size == 1:
            return
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        summed = self._sum_over_devices(torch.cat([gradient.flatten() for gradient in own]))
        for parameter, part in zip(trained, torch.split(summed, [p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _count_globally(self, batch: Sequence[Batch]) -> dict[str, Int[Tensor, ""]]:
        counts = [torch.stack([*count_terms(_targets(part)).values()]) for part in batch]
        return dict(zip(TERMS, self._sum_over_devices(torch.stack(counts).sum(0)), strict=True))

    def _sum_over_devices(self, values: Tensor) -> Tensor:
        summed: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return summed

    def _log_step(self, loss: Float[Tensor, ""], halvings: int, rates: Sequence[float]) -> None:
        loss, halved = self._sum_over_devices(torch.stack([loss, loss.new_tensor(halvings)]))
        self._halvings += int(halved)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} at optimizer step {self.trainer.global_step}; lower optimizer.lora_lr or "
                "optimizer.head_lr, or set optimizer.clip_norm"
            )
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/lr", max(rates))


def seed_step(seed: int, *, process: int, step: int) -> None:
    """Seed torch's generators, those of GPUs included, for one optimizer step.

    A resumed run then draws the same numbers as an uninterrupted one. A generator's state in the checkpoint would not
    be enough, because it would be that of one process only.

    Args:
        seed: Seed of the run.
        process: 0-based number among the processes that train together.
        step: Number of optimizer steps before this one.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, process, step]).generate_state(1, np.uint64)[0]))


def load_trained(detector: SpanDetector, path: Path) -> None:
    """Load the trained weights of a checkpoint into a detector.

    Raises:
        ModelError: The checkpoint holds other weights than those that this detector trains.
    """
    checkpoint = read_checkpoint(path)
    _check_trained(detector, checkpoint)
    detector.load_trainable_state_dict(
        {name.removeprefix(_PREFIX): value for name, value in checkpoint["state_dict"].items()}
    )


def _count_trained(detector: SpanDetector) -> dict[str, int]:
    return {part: trained for part, (trained, _) in detector.trainable_parameters_by_component().items()}


def _check_trained(detector: SpanDetector, checkpoint: Mapping[str, Any]) -> None:
    """Require that a checkpoint trained the same parameters as a detector, component by component."""
    counts = _count_trained(detector)
    saved = checkpoint.get("trained", counts)  # old checkpoints have only names
    if differing := [part for part in counts | saved if counts.get(part, 0) != saved.get(part, 0)]:
        raise ModelError(
            "the checkpoint has other trained parameters than this detector: "
            + "; ".join(f"{part}: {saved.get(part, 0):,} instead of {counts.get(part, 0):,}" for part in differing)
            + "; use it with the model.* keys that it was trained with"
        )
    here = {_PREFIX + name for name in detector.trainable_state_dict()}
    there = set(checkpoint["state_dict"])
    if here != there:
        raise ModelError(
            f"the checkpoint has {len(there - here)} weights that this detector does not train (such as "
            f"{min(there - here, default=None)}) and lacks {len(here - there)} (such as "
            f"{min(here - there, default=None)}); use it with the model.* keys that it was trained with"
        )


def _labeled_sentences(
    logits: Float[Tensor, "sentence"], batch: Batch, generators: Sequence[str]
) -> tuple[Float[Tensor, "labeled"], Bool[Tensor, "labeled"], Int[Tensor, "labeled"]]:
    """Return logit, label and number of the generator of each scored sentence that is correct or incorrect."""
    rows = [
        (reason is None and sentence.label in ("correct", "incorrect"), sentence.label == "incorrect", generator)
        for caption, reasons in zip(batch.captions, batch.unscored, strict=True)
        for generator in [generators.index(caption.generator)]
        for sentence, reason in zip(caption.sentences, reasons, strict=True)
    ]
    counts, incorrect, generator = torch.tensor(rows, device=logits.device).unbind(dim=1)
    kept = counts.bool()
    return logits[kept], incorrect[kept].bool(), generator[kept]


def _targets(batch: Batch) -> Targets:
    if batch.targets is None:
        raise ValueError("a batch without targets: rows to train on are encoded with them")
    return batch.targets
