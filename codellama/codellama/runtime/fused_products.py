"""How the products of a fused step are launched: weights of a kind, what stands around them, tiles.

Where all layers are in int8 or int4, activations go from kernel to kernel packed (`triton_integers`);
elsewhere in float32 (`triton_products`). Tiles here are those that did best on an H200; `fused_tuning`
measures others on a GPU that it finds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codellama.runtime.layers import RMSNorm
from codellama.runtime.linear import Fp8Linear, Int4Linear, Int8Linear
from codellama.runtime.triton_integers import integer_product
from codellama.runtime.triton_products import product_many, product_one

# The most sequences of a step: what a matrix unit's narrow side holds.
ROWS = 16
# Rows that a program of integers takes at once.
_TOGETHER = 4
# Places for a row's sums of squares, so that models of several widths share what is compiled.
_SQUARES = 512


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program of a product takes at once: outputs, inputs, warps, loads ahead.

    Inputs are counted in blocks of 16 or, of int4, 32 where activations are packed. Of a gated product of
    one unpacked row a program takes half as many outputs, each from two rows of weights.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int
    ahead: bool = False  # the next weights are asked for before these are used

    @property
    def options(self) -> dict[str, int]:
        """The launch's own settings."""
        return {"num_warps": self.warps, "num_stages": self.stages}


# For one row and for several, by what weights are kept in, and by whether activations are packed: the first
# is what is taken where nothing is measured. Packed outputs are whole blocks of 16.
TILES: dict[tuple[bool, str], tuple[Tile, ...]] = {
    (True, "float"): (
        Tile(8, 512, 4, 4),
        Tile(8, 512, 4, 3),
        Tile(16, 512, 4, 3),
        Tile(4, 1024, 4, 4),
        Tile(8, 1024, 8, 3),
    ),
    (True, "int8"): (Tile(8, 1024, 4, 1, ahead=True), Tile(8, 1024, 4, 3)),
    (True, "fp8"): (
        Tile(4, 512, 1, 1),
        Tile(8, 1024, 4, 3),
        Tile(8, 512, 4, 4),
        Tile(4, 1024, 4, 4),
        Tile(8, 1024, 4, 1, ahead=True),
    ),
    (False, "float"): (
        Tile(32, 128, 4, 3),
        Tile(32, 256, 4, 3),
        Tile(16, 256, 4, 4),
        Tile(64, 128, 4, 3),
        Tile(16, 512, 4, 3),
    ),
    (False, "int8"): (Tile(32, 128, 4, 3), Tile(16, 256, 4, 4)),
    (False, "fp8"): (
        Tile(32, 128, 4, 3),
        Tile(32, 256, 4, 3),
        Tile(16, 256, 4, 4),
        Tile(64, 128, 4, 3),
        Tile(16, 512, 4, 4),
    ),
}
PACKED_TILES: dict[tuple[bool, str], tuple[Tile, ...]] = {
    (True, "int8"): (
        Tile(16, 128, 4, 1),
        Tile(16, 64, 4, 1),
        Tile(16, 32, 4, 1),
        Tile(16, 64, 4, 3),
        Tile(16, 128, 8, 1),
        Tile(16, 64, 8, 1),
        Tile(8, 128, 4, 1),
    ),
    (True, "int4"): (
        Tile(16, 64, 8, 1),
        Tile(16, 64, 4, 1),
        Tile(16, 32, 4, 1),
        Tile(16, 128, 8, 1),
        Tile(16, 32, 2, 1),
        Tile(8, 64, 4, 1),
    ),
    (False, "int8"): (Tile(16, 32, 4, 1), Tile(16, 64, 8, 1), Tile(16, 32, 8, 1)),
    (False, "int4"): (Tile(16, 32, 8, 1), Tile(16, 64, 8, 1), Tile(16, 32, 4, 1)),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights [N, K] as the kernels take them."""

    kind: str
    weight: Tensor
    scale: Tensor | None
    outputs: int
    inputs: int
    group: int = 0

    @classmethod
    def of(cls, *layers: nn.Module) -> "Matrix":
        """Of linear layers that take the same input: plain ones, which are joined, or a quantised one."""
        first = layers[0]
        if isinstance(first, Int8Linear):
            return cls("int8", first.weight, first.scale, first.out_features, first.in_features)
        if isinstance(first, Fp8Linear):
            return cls("fp8", first.weight, first.scale, first.out_features, first.in_features)
        if isinstance(first, Int4Linear):
            sizes = first.out_features, first.in_features, first.group
            return cls("int4", first.packed, first.scales, *sizes)
        weight = _join([layer for layer in layers if isinstance(layer, nn.Linear)])
        return cls("float", weight, None, *weight.shape)

    @property
    def integers(self) -> bool:
        """Whether its inputs may come packed."""
        return self.kind in ("int8", "int4")

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.weight.nbytes + (0 if self.scale is None else self.scale.nbytes)


def _join(layers: list[nn.Linear]) -> Tensor:
    """The layers' weights one below another; the layers go on with views of it, so none is kept twice."""
    if len(layers) == 1:
        return layers[0].weight.detach()
    whole = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(
        layers, torch.split(whole, [layer.weight.shape[0] for layer in layers]), strict=True
    ):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return whole


class Activations:
    """Rows [16, K] float32 that go from kernel to kernel, and the same as products of several rows take them.

    Those of integers take packed blocks, also of one row; the others bfloat16.
    """

    def __init__(self, width: int, device: torch.device, packed: bool) -> None:
        self.values = torch.zeros(ROWS, width, device=device)
        self.packed = packed
        if packed:
            self.codes = torch.zeros(ROWS, 2, width, dtype=torch.int8, device=device)
            self.words = self.codes.view(torch.int32)
        else:
            self.words = self.codes = torch.zeros(ROWS, width, dtype=torch.bfloat16, device=device)
        self.numbers = torch.zeros(ROWS, 3, width // 16, device=device)

    def pack(self) -> None:
        """Packs the values as they stand, as a kernel does what it writes."""
        blocks = self.values.view(ROWS, -1, 16)
        step = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
        self.numbers.copy_(torch.stack((step[..., 0] / 254, blocks.sum(-1), blocks.square().sum(-1)), dim=1))
        if self.packed:
            coarse = (blocks / step).round()
            fine = ((blocks / step - coarse) * 254).round()
            self.codes.copy_(torch.stack((coarse, fine), dim=1).flatten(2))
        else:
            self.codes.copy_(self.values)

    def unpacked(self) -> Tensor:
        """What is packed, [16, K] float32."""
        if not self.packed:
            return self.codes.float()
        coarse, fine = self.codes.float().view(ROWS, 2, -1, 16).unbind(1)
        return ((254 * coarse + fine) * self.numbers[:, 0, :, None]).flatten(1)


@dataclass(frozen=True, slots=True)
class Product:
    """What is launched for a matrix: with the norm before it, between gate and up, added to what is there.

    `then` is the norm of what reads the results, whose gain they are packed with.
    """

    matrix: Matrix
    norm: RMSNorm | None = None
    gated: bool = False
    add: bool = False
    then: RMSNorm | None = None
    few: Tile | None = None
    many: Tile | None = None
    pdl: bool = False

    @property
    def outputs(self) -> int:
        """Numbers of a row that it writes."""
        return self.matrix.outputs // 2 if self.gated else self.matrix.outputs

    def tiles(self, few: bool, packed: bool) -> tuple[Tile, ...]:
        """What may be taken, the usual one first."""
        if not packed:
            return TILES[few, self.matrix.kind]
        blocks = self.add or self.gated  # which whole blocks are handed on of
        return tuple(
            tile for tile in PACKED_TILES[few, self.matrix.kind] if tile.outputs % 16 == 0 or not blocks
        )

    def launch(self, x: Activations, out: Activations | Tensor, rows: int) -> None:
        """out [16, N] of x [16, K], of which the first `rows` are computed, and some more where packed."""
        packed, few = x.packed and self.matrix.integers, rows == 1
        tile = (self.few if few else self.many) or self.tiles(few, packed)[0]
        values = out if isinstance(out, Tensor) else out.values
        flags: dict[str, Any] = {"GATED": self.gated, "NORM": self.norm is not None, "ADD": self.add}
        flags |= {"STAGES": tile.stages, "PDL": self.pdl, **tile.options}
        if self.pdl:
            flags["launch_pdl"] = True
        if packed or not (few or x.packed):
            target = out if isinstance(out, Activations) else x  # an argument must be something
            gain = self.then.weight if self.then else values
            ends = (values, gain, target.codes, target.numbers)
            flags |= {"PACK": isinstance(out, Activations), "GAIN": self.then is not None}
            blocks = max(1 << (self.matrix.inputs // 16 - 1).bit_length(), _SQUARES)
            flags["SQUARES"] = blocks if self.norm else 1
            (self._integers if packed else self._several)(x, ends, rows, tile, flags)
        else:  # a plain head behind packed layers as well, whose rows are few
            tile = self.few or TILES[True, self.matrix.kind][0]
            for row in range(rows):
                self._one(x.values[row], values[row], tile, flags | {"STAGES": tile.stages, **tile.options})

    def _one(self, x: Tensor, out: Tensor, tile: Tile, flags: dict[str, Any]) -> None:
        matrix, outputs = self.matrix, self.outputs
        taken = tile.outputs // 2 if self.gated else tile.outputs
        gain, eps = (self.norm.weight, self.norm.eps) if self.norm else (x, 0.0)
        flags |= {"BN": taken, "BK": tile.inputs, "SCALED": matrix.scale is not None, "AHEAD": tile.ahead}
        flags |= {"MAGIC": matrix.kind == "int8", "EVEN": matrix.inputs % tile.inputs == 0}
        scale = x if matrix.scale is None else matrix.scale
        product_one[(-(-outputs // taken),)](
            x, gain, matrix.weight, scale, out, outputs, matrix.inputs, eps, **flags
        )

    def _several(
        self, x: Activations, ends: tuple[Tensor, ...], rows: int, tile: Tile, flags: dict[str, Any]
    ) -> None:
        matrix, outputs = self.matrix, self.outputs
        flags |= {"BN": tile.outputs, "BK": tile.inputs, "SCALED": matrix.scale is not None}
        scale = x.numbers if matrix.scale is None else matrix.scale
        product_many[(-(-outputs // tile.outputs),)](
            x.codes,
            x.numbers,
            matrix.weight,
            scale,
            *ends,
            rows,
            outputs,
            matrix.inputs,
            self.norm.eps if self.norm else 0.0,
            **flags,
        )

    def _integers(
        self, x: Activations, ends: tuple[Tensor, ...], rows: int, tile: Tile, flags: dict[str, Any]
    ) -> None:
        matrix, outputs = self.matrix, self.outputs
        blocks = matrix.inputs // (32 if matrix.group else 16)
        together = min(1 << (rows - 1).bit_length(), _TOGETHER)
        flags |= {"GROUP": matrix.group, "EVEN": blocks % tile.inputs == 0}
        flags |= {"R": together, "BN": tile.outputs, "BB": tile.inputs}
        integer_product[-(-rows // together), outputs // tile.outputs](
            x.words,
            x.numbers,
            matrix.weight.view(torch.int32),
            matrix.scale,
            *ends,
            outputs,
            matrix.inputs,
            self.norm.eps if self.norm else 0.0,
            **flags,
        )
