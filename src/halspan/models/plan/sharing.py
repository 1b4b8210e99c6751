"""The shards of a backbone (`trainer.strategy=fsdp`): the bytes of each device, and what each has whole.

Rows are divided as torch's `fully_shard` divides them (see `halspan.models.sharding`): each device but the last has as
many as the first, so the first one's shard is the largest.
"""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from halspan.models.backbones.components import BLOCK, plain_path
from halspan.models.backbones.families import find_layers
from halspan.models.plan.inventory import Weights, add_up, measure
from halspan.models.plan.skeleton import Skeleton
from halspan.models.sharding.processes import rows_of

MOST_DEVICES = 1024
"""Largest number of devices that is looked at."""

SCALES_OF_SCALES = "nf4 (scales of scales)"
"""What each device has whole of weights in 4 bits: the scales that 256 of their scales share."""

_WHOLE_LAYERS = 3  # the one that runs, the next one, and the buffer in which a layer arrives


@dataclass(frozen=True, slots=True)
class Divided:
    """A weight that is divided by its rows.

    Attributes:
        component: Component that it belongs to.
        layer: Number of its layer of the text decoder.
        n_rows: Number of its rows; bytes and scales are rows of 4-bit weights.
        row_bytes: Bytes of a row.
    """

    component: str
    layer: int
    n_rows: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        """Return the bytes of the whole weight."""
        return self.n_rows * self.row_bytes

    def share(self, device: int, n_devices: int) -> int:
        """Return the bytes of the rows of one of some devices."""
        start, stop = rows_of(self.n_rows, device, n_devices)
        return (stop - start) * self.row_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The frozen weights of several devices.

    Attributes:
        devices: Number of devices.
        divided: Weights of which each device has some rows.
        replicated: Weights that each device has whole.
    """

    devices: int
    divided: tuple[Divided, ...]
    replicated: tuple[Weights, ...]

    @property
    def sharded(self) -> int:
        """Return the bytes of all shards together."""
        return sum(weight.bytes for weight in self.divided)

    @property
    def whole(self) -> int:
        """Return the bytes that each device has beside its shard."""
        return sum(part.bytes for part in self.replicated)

    @property
    def passing(self) -> int:
        """Return the bytes of whole layers that a device has for a while during a pass."""
        layers: dict[int, int] = {}
        for weight in self.divided:
            layers[weight.layer] = layers.get(weight.layer, 0) + weight.bytes
        return _WHOLE_LAYERS * max(layers.values(), default=0)

    def share(self, device: int = 0) -> int:
        """Return the bytes of the shards of a device; the first has the largest ones."""
        return sum(weight.share(device, self.devices) for weight in self.divided)


def share_out(skeleton: Skeleton, *, in_4_bit: Collection[str], devices: int) -> Sharing:
    """Divide the frozen weights of a detector's decoder layers among devices.

    Args:
        skeleton: Skeleton of the detector.
        in_4_bit: Paths of the weights that are put in 4 bits.
        devices: Number of devices.
    """
    backbone, family = skeleton.detector.backbone, skeleton.family
    layers = {
        id(parameter): number
        for number, layer in enumerate(find_layers(skeleton.decoder))
        for parameter in layer.parameters()
        if not parameter.requires_grad
    }
    measured = measure(backbone, family, in_4_bit=in_4_bit)
    divided: list[Divided] = []
    for name, parameter in backbone.named_parameters():
        if (layer := layers.get(id(parameter))) is None:
            continue
        weights = measured.pop(path := plain_path(name))
        parts = _divide(parameter, weights.component, layer, is_in_4_bit=path in in_4_bit)
        divided += parts
        if rest := weights.bytes - sum(part.bytes for part in parts):
            measured[path] = Weights(component=weights.component, dtype=SCALES_OF_SCALES, parameters=0, bytes=rest)
    whole = (weights for weights in measured.values() if weights.component != "adapters")
    return Sharing(devices=devices, divided=tuple(divided), replicated=tuple(add_up(whole)))


def _divide(parameter: Tensor, component: str, layer: int, *, is_in_4_bit: bool) -> list[Divided]:
    if not is_in_4_bit:
        rows = len(parameter)
        return [Divided(component, layer, rows, parameter.nbytes // rows)]
    n = parameter.numel()
    return [Divided(component, layer, n_rows, 1) for n_rows in (-(-n // 2), -(-n // BLOCK))]
