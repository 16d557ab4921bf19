"""Counts floating point operations: those of products of matrices, convolutions, attention and recurrent layers, forwards and back.

Unlike torch's own FlopCounterMode it keeps no track of modules, whose hooks cannot stand a gradient of a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

Shape = Sequence[int]


class Counting(TorchDispatchMode):
    """Adds to `flops` what is computed inside; a multiplication and an addition are two."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer)
def recurrent(x: Shape, of_input: Shape, of_state: Shape, *_: Any, **__: Any) -> int:
    """Of a recurrent layer, whose steps are one operation on a CPU: x [L, n, D], and its matrices."""
    return 2 * x[0] * x[1] * (prod(of_input) + prod(of_state))


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer_backward)
def recurrent_backwards(*shapes: Shape, **_: Any) -> int:
    """Each product of it has two, to x and to the matrices."""
    return 2 * recurrent(*shapes)
