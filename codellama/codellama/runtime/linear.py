"""Quantised linear layers: int8, int4 and fp8 weights, in arithmetic that a CPU or a GPU has.

Each stands where an `nn.Linear` stood and computes x @ W.T (+ bias). Rows of x never influence each other,
so a token's result does not depend on what is computed beside it.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from codellama.runtime.cache import pack
from codellama.runtime.int4 import (
    CHUNK,
    pack_fours,
    pack_words,
    quantise_int4,
    unpack_fours,
    unpack_words,
)

Quantisation = Literal["int8", "int4", "fp8"]
# How int8 weights are multiplied: with activations in bfloat16, or in two halves of int8.
Kernel = Literal["bfloat16", "halves"]
# How int4 weights lie: as torch's kernel for a CPU, our own for a GPU, and the compiled code read them.
Int4Layout = Literal["torch", "words", "fours"]

# Steps of int8 on either side of zero, and of what is left when the upper eight bits are taken away.
_STEPS = 127.0
_FINE = 254.0
# Up to so many rows are decoded rather than read: steps, batches of steps, and drafts.
_FEW = 16
# Sizes in which int4 weights share a scale; smaller ones cost more memory and lose less.
GROUPS = (32, 64, 128)
# Weights that are written out at once.
_PIECE = 2**27
# The widest input whose products of int8 cannot overflow an int32 sum.
_MAX_WIDTH = 2**31 // (127 * 127)


class Int8Linear(nn.Module):
    """Weights in int8 with a scale for each output; activations in 15 bits or in bfloat16.

    A row of activations in int8 costs far more accuracy than the weights do (LLM.int8(), arXiv 2208.07339,
    section 3). In two int8 halves, the second of which holds what the first one leaves, only the weights'
    rounding remains, and sums are exact integers. bfloat16 is one kernel that starts sooner. Which of them
    a few and many rows take is for `kernels` to say. (The compiled code of `native` gives each 32 activations
    a step of their own, which takes one int8; torch has no such product.)
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        few: Kernel = "bfloat16",
        many: Kernel = "halves",
    ) -> None:
        """Quantises `weight` [N, K]."""
        super().__init__()
        self.few, self.many = few, many
        assert weight.ndim == 2
        assert weight.shape[1] < _MAX_WIDTH, "an int32 sum could overflow"
        wide = weight.float()
        scale = wide.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / _STEPS  # [N]
        # Rounded up to what bfloat16 holds, so that both ways of computing use the same weights.
        scale = (scale * (1 + 2**-8)).bfloat16().float()
        self.register_buffer("weight", (wide / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] to [..., N], in x's dtype."""
        rows = x.reshape(-1, self.in_features)  # [M, K]
        kernel = self.few if rows.shape[0] <= _FEW else self.many
        if rows.device.type == "cuda":
            out = self.dequantising(rows)
        else:
            out = self.in_bfloat16(rows) if kernel == "bfloat16" else self.in_halves(rows)
        if self.bias is not None:
            out = out.add_(self.bias)
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def dequantising(self, rows: Tensor) -> Tensor:
        """x [M, K] to [M, N] float32: on a GPU many rows cost more than to write the weights out first."""
        return (
            _in_pieces(rows, self.out_features, lambda part: self.weight[part].to(rows.dtype))
            .float()
            .mul_(self.scale)
        )

    def in_bfloat16(self, rows: Tensor) -> Tensor:
        """x [M, K] to [M, N] float32: one kernel that reads the weights once, activations in bfloat16."""
        return torch._weight_int8pack_mm(rows.bfloat16(), self.weight, self.scale.bfloat16()).float()

    def in_halves(self, rows: Tensor) -> Tensor:
        """x [M, K] to [M, N] float32: exact sums of integers, activations in two halves."""
        halves, step = split_int8(rows.float())
        products = torch._int_mm(halves, self.weight.t())  # [2M, N] int32
        count = rows.shape[0]
        out = products[:count].float().add_(products[count:], alpha=1 / _FINE)
        return out.mul_(step).mul_(self.scale)  # [M, N]

    def dequantised(self) -> Tensor:
        """The weights that are computed with, [N, K] float32."""
        return self.weight.float() * self.scale[:, None]


def split_int8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [M, K] as int8 [2M, K], coarse halves above fine ones, and the coarse step of each row [M, 1].

    rows = step * (coarse + fine / 254), to within step / 508.
    """
    step = rows.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(_STEPS)
    scaled = rows / step
    coarse = scaled.round()
    fine = scaled.sub_(coarse).mul_(_FINE).round_()
    return torch.cat((coarse, fine)).to(torch.int8), step


class Int4Linear(nn.Module):
    """Weights in four bits, each `group` of them with a scale and a middle; activations in bfloat16.

    In the layout `fours` only the compiled code of `native` computes with them at speed.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, group: int = 32, layout: Int4Layout | None = None
    ) -> None:
        """Quantises `weight` [N, K]; K is a multiple of `group`, and of 256 in `words`.

        By default `layout` is what the device's own kernels read.
        """
        super().__init__()
        outputs, inputs = weight.shape
        self.layout = layout or ("words" if weight.device.type != "cpu" else "torch")
        assert group in GROUPS
        assert inputs % (CHUNK if self.layout == "words" else group) == 0
        self.group = group
        self.out_features, self.in_features = outputs, inputs
        if self.layout == "words":
            packed, scales = pack_words(weight, group)
        elif self.layout == "fours":
            packed, scales = pack_fours(weight, group)
        else:
            steps, scale, middle = quantise_int4(weight.float(), group)
            packed = torch._convert_weight_to_int4pack_for_cpu(steps, 1)
            scales = _int4_scales(scale, middle)
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] to [..., N], in x's dtype."""
        rows = x.reshape(-1, self.in_features).bfloat16()
        if self.layout == "torch":
            out = torch._weight_int4pack_mm_for_cpu(rows, self.packed, self.group, self.scales)
        else:
            out = _in_pieces(rows, self.out_features, self._unpacked)
        out = out.to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def dequantised(self) -> Tensor:
        """The weights that are computed with, [N, K] float32; of `fours`."""
        assert self.layout == "fours"
        return unpack_fours(self.packed, self.scales, self.group)

    def _unpacked(self, part: slice) -> Tensor:
        unpack = unpack_words if self.layout == "words" else unpack_fours
        return unpack(self.packed[part], self.scales[part], self.group).bfloat16()


class Fp8Linear(nn.Module):
    """Weights in float8_e4m3fn with a scale for each output, activations likewise with one for each row.

    The product is that of a Hopper GPU's fp8 units; elsewhere the same numbers are multiplied in float32,
    which tests the arithmetic and is no faster.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Quantises `weight` [N, K]; both are multiples of 16."""
        super().__init__()
        assert weight.shape[0] % 16 == 0
        assert weight.shape[1] % 16 == 0
        packed, scale = pack(weight, torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max)
        self.register_buffer("weight", packed)
        self.register_buffer("scale", scale.T.contiguous())  # [1, N]
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] to [..., N], in x's dtype."""
        rows = x.reshape(-1, self.in_features)  # [M, K]
        packed, scale = pack(rows, torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max)
        out = _scaled_product(packed, self.weight, scale, self.scale).to(x.dtype)
        if self.bias is not None:
            out = out + self.bias.to(x.dtype)
        return out.view(*x.shape[:-1], self.out_features)


def _scaled_product(rows: Tensor, weight: Tensor, row_scale: Tensor, scale: Tensor) -> Tensor:
    """rows [M, K] @ weight [N, K].T, times the scales [M, 1] and [1, N]."""
    if rows.device.type == "cuda":
        return torch._scaled_mm(rows, weight.t(), row_scale, scale, out_dtype=torch.bfloat16)
    return rows.float() @ weight.float().T * row_scale * scale


def quantised(
    weight: Tensor,
    bias: Tensor | None,
    kind: Quantisation,
    few: Kernel = "bfloat16",
    many: Kernel = "halves",
    compiled: bool = False,
) -> nn.Module:
    """The layer that computes with `weight` [N, K] in fewer bits; int8 where they have no kernel for it.

    `compiled`: the compiled code takes it over.
    """
    whole = GROUPS[0] if weight.device.type == "cpu" else CHUNK
    if kind == "int4" and weight.shape[0] % 64 == 0 and weight.shape[1] % whole == 0:
        return Int4Linear(weight, bias, layout="fours" if compiled else None)
    if kind == "fp8" and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0:
        return Fp8Linear(weight, bias)
    return Int8Linear(weight, bias, few, many)


def _in_pieces(rows: Tensor, outputs: int, piece: Callable[[slice], Tensor]) -> Tensor:
    """rows [M, K] @ W.T, where `piece` writes out some of W [N, K], never much of it at once."""
    step = max(_PIECE // rows.shape[1], 1)
    pieces = [slice(start, start + step) for start in range(0, outputs, step)]
    return torch.cat([rows @ piece(part).T for part in pieces], dim=1)


def _int4_scales(scale: Tensor, middle: Tensor) -> Tensor:
    """The kernels' layout, [K / group, N, 2] bfloat16."""
    return torch.stack((scale, middle), dim=-1).transpose(0, 1).contiguous().bfloat16()
