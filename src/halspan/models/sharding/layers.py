"""Decoder layers in shards: torch's `fully_shard`, without any cast of what it exchanges.

Packed 4-bit weights are bytes, not numbers: a cast would damage them, and nothing would say so. A layer is whole on a
device only while it runs, in the forward and again in the backward pass. Adapters, which are put on later, stay whole
on every device.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

_NO_CAST = MixedPrecisionPolicy(cast_forward_inputs=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """This process's rows of a weight.

    Attributes:
        rows: The rows; there may be none.
        shape: Shape of the whole weight.
        marks: Attributes of the parameter, which bitsandbytes and peft look for on 4-bit weights.
    """

    rows: Tensor
    shape: torch.Size
    marks: Mapping[str, Any] = field(default_factory=dict)

    def empty(self) -> nn.Parameter:
        """Return a parameter of the whole weight's shape and type, without memory."""
        return nn.Parameter(torch.empty(self.shape, dtype=self.rows.dtype, device="meta"), requires_grad=False)

    def parameter(self, mesh: DeviceMesh) -> nn.Parameter:
        """Return the whole weight as a parameter that has these rows here."""
        strides = torch.empty(self.shape, device="meta").stride()
        whole = DTensor.from_local(self.rows, mesh, [Shard(0)], run_check=False, shape=self.shape, stride=strides)
        parameter = nn.Parameter(whole, requires_grad=False)
        for name, value in self.marks.items():
            setattr(parameter, name, value)
        return parameter


Place = tuple[nn.Module, str]
"""A module, and the name of one of its own parameters."""


def shard_layers(
    decoder: nn.Module, layers: Iterable[nn.Module], slices: Mapping[Place, Slice], mesh: DeviceMesh
) -> None:
    """Let processes hold the layers of a text decoder in shards.

    Args:
        decoder: Text decoder; what it has besides its layers stays whole.
        layers: Its layers, whose parameters have no memory yet; changed in place.
        slices: This process's rows of each of their parameters.
        mesh: The processes.
    """
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=_NO_CAST)
    sharded = {id(owner.get_parameter(name)) for owner, name in slices}
    others = {parameter for parameter in decoder.parameters() if id(parameter) not in sharded}
    # the decoder itself has no shards: as the root, it lets the next layer arrive while one computes
    fully_shard(decoder, mesh=mesh, mp_policy=_NO_CAST, ignored_params=others)
    for (owner, name), part in slices.items():
        owner.register_parameter(name, part.parameter(mesh))
