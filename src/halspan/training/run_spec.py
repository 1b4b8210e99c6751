"""Settings of a run and its training, checked on construction; nothing heavy is imported."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from halspan.core.errors import ConfigError
from halspan.evaluation.sampling import JudgeSpec

_STRICT = ConfigDict(extra="forbid", validate_default=True)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _read_switch(value: Any) -> Any:
    """Return what `on` and `off` mean: YAML reads them as true and false, the command line as text."""
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainerSpec:
    """The machine, the number of rows it takes at a time, and the length of training.

    Attributes:
        accelerator: Kind of device that runs the detector.
        devices: Number of processes on a machine, with one accelerator each.
        nodes: Number of machines.
        strategy: `auto` for one device; for several, `ddp` with the whole backbone on each, or `fsdp` with a shard of
            each layer of its text decoder.
        precision: Precision of the forward pass; heads and losses stay in float32.
        threads: CPU threads of each process; None for torch's own choice.
        workers: Processes per device that read images and encode rows; 0 reads in the training process.
        rows_per_batch: Rows (images) per optimizer step, over all devices.
        tokens_per_pass: Most tokens of one forward pass on one device, padding and images included; `auto` for as many
            as the device has memory for.
        captions_per_row: Largest number of captions of one image that share one image prefix.
        max_steps: Optimizer steps; None to count epochs only. If both are given, the shorter one ends training.
        max_epochs: Passes over the training rows; None to count steps only.
        val_every_steps: Optimizer steps between validations; None for one after each epoch. There is always one after
            the last step.
        patience: Validations in a row without a lower loss after which training ends early; None to take all steps.
        save_every_steps: Optimizer steps between two `last.ckpt`.
        log_every_steps: Optimizer steps between two lines of the log.
        compile: Whether the text decoder's layers are compiled (torch.compile); takes a while at the start, and needs a
            C++ compiler on a CPU.
        profile: Whether a few steps after the first ones are measured: `profile.html` says where their time goes.
        keep_images: Whether what frozen parts of the backbone make of an image is kept in files, for later epochs and
            runs; `auto` to keep it where images take a tenth of the first steps' time or more.
        keep_folder: Folder of these files, for any number of runs; None for `halspan/images` in the user's folder for
            caches.
        keep_gib: Size of this folder in GiB from which on nothing is added to it.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    accelerator: Literal["cpu", "gpu"]
    devices: Count
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["32-true", "bf16-mixed"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None  # with far more, OpenMP ends the process
    workers: Annotated[int, Field(ge=0)]
    rows_per_batch: Count
    tokens_per_pass: Count | Literal["auto"]
    captions_per_row: Count
    max_steps: Count | None
    max_epochs: Count | None
    val_every_steps: Count | None
    patience: Count | None
    save_every_steps: Count
    log_every_steps: Count
    compile: Annotated[bool, Field(strict=True)]
    profile: Annotated[bool, Field(strict=True)]
    keep_images: Annotated[Annotated[bool, Field(strict=True)] | Literal["auto"], BeforeValidator(_read_switch)] = False
    keep_folder: Annotated[str, Field(min_length=1)] | None = None
    keep_gib: Positive = 32.0
    nodes: Count = 1

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("max_steps and max_epochs are both null, so training would never end; set one of them")
        if self.all_devices > 1 and self.strategy == "auto":
            raise ValueError(
                f"strategy 'auto' drives one device, not {self.all_devices}; set strategy to ddp, or to fsdp if the "
                "backbone is too large for one of them"
            )
        if self.strategy == "fsdp" and self.compile:
            raise ValueError("compile is true, but layers in shards (strategy fsdp) are not compiled; set it to false")
        if self.rows_per_batch < self.all_devices:
            raise ValueError(
                f"rows_per_batch {self.rows_per_batch} leaves some of {self.all_devices} devices without a row; raise "
                "it"
            )

    @property
    def all_devices(self) -> int:
        """Return the number of processes on all machines."""
        return self.devices * self.nodes

    def total_steps(self, n_rows: int) -> int:
        """Return the optimizer steps of a run over `n_rows` training rows."""
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            limits.append(self.max_epochs * self.steps_per_epoch(n_rows))
        return min(limits)

    def steps_per_epoch(self, n_rows: int) -> int:
        """Return the optimizer steps of one pass over `n_rows` rows; the last may hold fewer rows."""
        return -(-n_rows // self.rows_per_batch)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimizerSpec:
    """AdamW with warm-up and decay; each part of the detector has its own learning rate.

    Attributes:
        lora_lr: Peak learning rate of the backbone's trained weights (LoRA).
        head_lr: Peak learning rate of the heads.
        weight_decay: Decoupled weight decay of matrices; vectors (biases, norms) have none.
        betas: Decay of the first and second moment.
        warmup_fraction: Share of all steps with a rising learning rate.
        schedule: Curve after the warm-up, down to 0 at the last step (or constant).
        clip_norm: Largest norm of the gradient of all trained weights; None for no clipping.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type or range.
    """

    lora_lr: Positive
    head_lr: Positive
    weight_decay: NotNegative
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    schedule: Literal["cosine", "linear", "constant"]
    clip_norm: Positive | None


def check_backward(model: Any, trainer: TrainerSpec) -> None:
    """Require that the attention of a model can be trained on the trainer's machine.

    Raises:
        ConfigError: It cannot.
    """
    if model.attention == "flex" and trainer.accelerator == "cpu":
        raise ConfigError(
            "model.attention: flex cannot train on a CPU, because torch's flex_attention has no backward pass there; "
            "set model.attention=sdpa, or train on a GPU (trainer=gpu)"
        )


def describe_recipe(trainer: TrainerSpec, optimizer: OptimizerSpec) -> str:
    """Describe in one line how long and how fast a run trains.

    An example is "3 epochs, 16 images a step, peak learning rates 0.0002 (LoRA) and 0.001 (heads)".
    """
    limits = {"step": trainer.max_steps, "epoch": trainer.max_epochs}
    length = " or ".join(f"{limit:,} {unit}{'s' * (limit > 1)}" for unit, limit in limits.items() if limit is not None)
    return (
        f"{length}, {trainer.rows_per_batch} images a step, peak learning rates {optimizer.lora_lr:g} (LoRA) and "
        f"{optimizer.head_lr:g} (heads)"
    )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CsvLoggerSpec:
    """Curves as `logs/version_N/metrics.csv` in the run directory; a resumed run adds a version."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WandbLoggerSpec:
    """Curves and final figures at Weights & Biases, one wandb run for each run directory.

    Attributes:
        project: The wandb project.
        entity: User or team; None for wandb's default.
        mode: `offline` to keep the run on disk for `wandb sync`; None to follow WANDB_MODE.
        tags: Labels of the run.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type.
    """

    project: str
    entity: str | None
    mode: Literal["online", "offline", "disabled"] | None
    tags: list[str]


LoggerSpec = CsvLoggerSpec | WandbLoggerSpec


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunSpec:
    """One complete run; parts that other packages own are instances of their own spec classes.

    Attributes:
        run_name: what was chosen and, in a sweep, its overrides: the run's identity.
        run_dir: where everything is left.
        seed: of the initial heads and LoRA, the order of rows, dropout and the derangement of images.
        resume: continue from `last.ckpt`; `auto` where there is one, so that the same command begins a run and goes on.
        overwrite: start again where there is a run already.
        plan: say what memory the run needs, and do nothing else.
        blank_images: control: every image, in training and judging, is replaced by a gray one of its size.
        objective: Dotted path into `metrics.json` of the figure for an optimizing sweep.
        data: a reader with `load()`.
        model: the detector's spec.
        split: with `apply(corpus)`.
        loss: weights of the loss terms.
        judge: how much is judged.

    Raises:
        pydantic.ValidationError: A key is unknown, or a value has the wrong type.
    """

    run_name: str
    run_dir: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    resume: Literal[True, False, "auto"]
    overwrite: Annotated[bool, Field(strict=True)]
    plan: Annotated[bool, Field(strict=True)] = False
    blank_images: Annotated[bool, Field(strict=True)]
    objective: str
    trainer: TrainerSpec
    optimizer: OptimizerSpec
    logger: LoggerSpec
    data: Any
    model: Any
    split: Any
    loss: Any
    judge: JudgeSpec
