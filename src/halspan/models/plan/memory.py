"""Device memory that training a detector needs, computed before anything is loaded."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, replace

from halspan.core.taxonomy import HALLUCINATION_TYPES
from halspan.models.backbones.components import quantizable
from halspan.models.model_spec import ModelSpec
from halspan.models.plan.activations import Activations, PassSize, estimate_activations
from halspan.models.plan.inventory import Quantize, Weights, measure, take_inventory
from halspan.models.plan.sharing import MOST_DEVICES, Sharing, share_out
from halspan.models.plan.skeleton import Skeleton, build_skeleton

__all__ = ["PassSize", "Plan", "fewest_devices", "make_plan"]

_TRAINED = ("adapters", "heads")
_WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes
_MOMENTS = 2  # moments of AdamW, in the dtype of the weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The memory of one device while a detector trains on it, in bytes.

    Attributes:
        weights: Frozen weights by component and dtype, then adapters and heads.
        naive_weights: The same after a plain bitsandbytes load, with only linear layers in 4 bits: routed experts are
            not linear layers and stay in 16 bits.
        trained: Bytes of adapters and heads; their gradients take the same again, and AdamW's two moments twice that.
        activations: Activations of one pass.
        dequantized: Bytes of 4-bit weights while an operation reads them in `model.dtype`: all experts of one layer, or
            the largest linear layer.
        naive_dequantized: The same for the plain load.
        skeleton: Detector that was counted.
        sharing: Frozen weights of each of several devices that hold the backbone together; None where each holds all.
    """

    weights: tuple[Weights, ...]
    naive_weights: tuple[Weights, ...]
    trained: int
    activations: Activations
    dequantized: int
    naive_dequantized: int
    skeleton: Skeleton
    sharing: Sharing | None = None

    @property
    def frozen(self) -> int:
        """Return the bytes of the backbone, or of its part that the device has."""
        return _frozen(self.weights) if self.sharing is None else self.sharing.share() + self.sharing.whole

    @property
    def passing(self) -> int:
        """Return the bytes of whole layers that are put together for a pass; 0 where the device has them."""
        return 0 if self.sharing is None else self.sharing.passing

    @property
    def naive_frozen(self) -> int:
        """Return the bytes of the backbone after a plain 4-bit load."""
        return _frozen(self.naive_weights)

    @property
    def moments(self) -> int:
        """Return the bytes of AdamW's moments."""
        return _MOMENTS * self.trained

    @property
    def peak(self) -> int:
        """Return the bytes of everything together."""
        return self.frozen + self.passing + self.dequantized + self._in_training

    @property
    def naive_peak(self) -> int:
        """Return the bytes of everything together after a plain 4-bit load."""
        return self.naive_frozen + self.naive_dequantized + self._in_training

    @property
    def _in_training(self) -> int:
        return self.trained + self.trained + self.moments + self.activations.total  # twice, for the gradients


def make_plan(spec: ModelSpec, size: PassSize, *, like: Plan | None = None) -> Plan:
    """Plan the memory that training takes.

    Only the configuration of the backbone is read. LoRA targets are checked.

    Args:
        spec: Spec of the detector.
        size: Size of a pass on one device.
        like: Another plan, whose skeleton is used again if it fits.

    Raises:
        ModelError: The backbone does not exist, it is not a vision-language model, or a LoRA target matches nothing.
    """
    again = like if like is not None and like.skeleton.suits(spec) else None
    skeleton = _build(spec) if again is None else again.skeleton
    quantize: Quantize = "linear layers and experts" if spec.quantize == "nf4" else "nothing"
    in_4_bit = quantizable(skeleton.detector.backbone, skeleton.family) if spec.quantize == "nf4" else set()
    return Plan(
        weights=tuple(take_inventory(skeleton.detector, quantize=quantize)),
        naive_weights=_naive_weights(skeleton) if again is None else again.naive_weights,
        trained=sum(p.numel() * p.element_size() for p in skeleton.detector.parameters() if p.requires_grad),
        activations=estimate_activations(skeleton, spec, size),
        dequantized=_dequantized(skeleton, experts=True) * _WIDTHS[spec.dtype] if spec.quantize == "nf4" else 0,
        naive_dequantized=_dequantized(skeleton, experts=False) * _WIDTHS["bfloat16"],
        skeleton=skeleton,
        sharing=None if size.devices is None else share_out(skeleton, in_4_bit=in_4_bit, devices=size.devices),
    )


def fewest_devices(spec: ModelSpec, size: PassSize, *, free: int, like: Plan) -> Plan | None:
    """Plan the fewest devices that are enough together, with passes of one full line.

    Args:
        spec: Spec of the detector.
        size: Largest pass.
        free: Bytes that are free on each device.
        like: Another plan of the same spec.

    Returns:
        The plan of one of these devices; None if no number of them is enough, because each has something whole.
    """
    line = replace(size, tokens=min(size.tokens, spec.pack_tokens), devices=1)
    plan = make_plan(spec, line, like=like)
    sharing = plan.sharing
    if sharing is None:
        raise AssertionError("a pass on a number of devices has a plan with shards")
    on = [replace(plan, sharing=replace(sharing, devices=n)) for n in range(1, MOST_DEVICES + 1)]
    found = bisect_left(on, -free, key=lambda each: -each.peak)  # more devices, smaller shards
    return on[found] if found < len(on) else None


def _build(spec: ModelSpec) -> Skeleton:
    return build_skeleton(spec, n_types=len(HALLUCINATION_TYPES))  # another taxonomy changes only a few numbers


def _naive_weights(skeleton: Skeleton) -> tuple[Weights, ...]:
    """Return the weights with 4 bits only in linear layers of the language tower, and 16 bits elsewhere."""
    in_16_bit = replace(skeleton.spec, dtype="bfloat16")
    naive = skeleton if skeleton.suits(in_16_bit) else _build(in_16_bit)
    return tuple(take_inventory(naive.detector, quantize="linear layers"))


def _frozen(weights: tuple[Weights, ...]) -> int:
    return sum(part.bytes for part in weights if part.component not in _TRAINED)


def _dequantized(skeleton: Skeleton, *, experts: bool) -> int:
    """Return the bytes of the largest 4-bit weights that are dequantized at the same time."""
    backbone, family = skeleton.detector.backbone, skeleton.family
    paths = quantizable(backbone, family, experts=experts)
    together: dict[str, int] = defaultdict(int)
    for path, weights in measure(backbone, family).items():
        if path in paths:
            together[path.rpartition(".")[0]] += weights.parameters  # the experts of a layer are in one module
    return max(together.values(), default=0)
