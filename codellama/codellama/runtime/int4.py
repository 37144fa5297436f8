"""Weights in four bits: what is rounded to what, and how our own kernels keep them.

A kernel's thread reads four words of eight weights at once, while its neighbours read the next ones, so
that their inputs stand side by side too: of 256 inputs, word 4 l + t holds 4 l + t, 32 more, 64 more and
so on, the first in the lowest bits. Inputs that share a scale are those of whole fours of words.
"""

import torch
from torch import Tensor

# Inputs within which words are dealt out.
CHUNK = 256


def quantise_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [N, K] as steps 0 to 15 (int32 [N, K]), scale and middle of each group [N, K / group].

    weight = (steps - 8) * scale + middle. Of several ranges around each group's own, the one with the
    least squared error is taken, since the outermost weights are few.
    """
    groups = weight.view(weight.shape[0], -1, group)  # [N, G, group]
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best = torch.full_like(low, torch.inf)
    best_steps, best_scale, best_middle = torch.zeros_like(groups), torch.ones_like(low), low
    for shrink in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
        # What is stored is bfloat16, so the steps are chosen for the rounded scale.
        scale = ((high - low) * (shrink / 15)).clamp_min(1e-8).bfloat16().float()
        middle = ((high + low) / 2 + scale / 2).bfloat16().float()
        steps = ((groups - middle) / scale + 8).round().clamp(0, 15)
        error = ((steps - 8) * scale + middle - groups).square().sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        best_steps = torch.where(better, steps, best_steps)
        best_scale = torch.where(better, scale, best_scale)
        best_middle = torch.where(better, middle, best_middle)
    return best_steps.view_as(weight).to(torch.int32), best_scale.squeeze(-1), best_middle.squeeze(-1)


def pack_fours(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Weights [N, K] as bytes [N, K / 2] and scales, int32 [N, K / group], as in `pack_words`.

    Of eight inputs, four bytes hold the first four in their lower halves and the next four in their upper.
    """
    count, width = weight.shape
    steps, scale, middle = quantise_int4(weight.float(), group)
    first, second = steps.to(torch.uint8).view(count, width // 8, 2, 4).unbind(2)
    return (first | second << 4).view(count, width // 2), _pairs(scale, middle)


def unpack_fours(fours: Tensor, scales: Tensor, group: int) -> Tensor:
    """The weights that are computed with, float32 [N, K]."""
    count = fours.shape[0]
    steps = torch.stack((fours & 15, fours >> 4), dim=-1).view(count, -1, 4, 2).transpose(2, 3)
    scale, middle = scales.view(torch.bfloat16).view(count, -1, 2, 1).float().unbind(2)  # [N, G, 1]
    return ((steps.reshape(count, -1, group).float() - 8) * scale + middle).view(count, -1)


def _pairs(scale: Tensor, middle: Tensor) -> Tensor:
    """[N, G] of each as int32 [N, G]: the scale in the lower half, the middle in the upper, both bfloat16."""
    return torch.stack((scale, middle), dim=-1).bfloat16().view(torch.int32).squeeze(-1)


def pack_words(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Weights [N, K] as words, int32 [N, K / 8], and scales, int32 [N, K / group].

    K is a multiple of 256. A scale's lower half is the scale, its upper half the middle, both bfloat16.
    """
    count, width = weight.shape
    dealt = weight.float().view(count, -1, 8, 8, 4).transpose(2, 3)  # [N, C, l, i, t]
    steps, scale, middle = quantise_int4(dealt.reshape(count, width), group)
    words = torch.zeros(count, width // 32, 4, dtype=torch.int32, device=weight.device)
    for i, part in enumerate(steps.view(count, -1, 8, 4).unbind(2)):  # [N, C l, t]
        words |= part << 4 * i
    return words.view(count, -1), _pairs(scale, middle)


def unpack_words(words: Tensor, scales: Tensor, group: int) -> Tensor:
    """The weights that are computed with, bfloat16 [N, K]."""
    count = words.shape[0]
    places = torch.arange(0, 32, 4, device=words.device, dtype=torch.int32)
    steps = words.view(count, -1, 1, 4) >> places[:, None] & 15  # [N, C l, i, t]
    scale, middle = scales.view(torch.bfloat16).view(count, -1, 2, 1).float().unbind(2)  # [N, G, 1]
    weight = (steps.view(count, -1, group) - 8) * scale + middle
    return weight.bfloat16().view(count, -1, 8, 8, 4).transpose(2, 3).reshape(count, -1)
