"""Weights in four bits: what is rounded to what, and how our own kernels keep them.

A kernel's thread reads 32 neighbouring weights at once, as four words of four bytes: a byte's lower half
is a weight of the first 16, its upper half one of the last 16, each in their order. So one instruction takes
four neighbours out of a word, as it multiplies them with four inputs.
"""

import torch
from torch import Tensor


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


def pack_words(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Weights [N, K] as words, int32 [N, K / 8], and scales, int32 [N, K / group].

    A scale's lower half is the scale, its upper half the middle, both bfloat16.
    """
    count = weight.shape[0]
    steps, scale, middle = quantise_int4(weight.float(), group)
    low, high = steps.view(count, -1, 2, 16).unbind(2)
    words = (low | high << 4).to(torch.uint8).view(torch.int32)  # [N, C, 4]
    halves = torch.stack((scale, middle), dim=-1).bfloat16()  # [N, G, 2]
    return words.view(count, -1), halves.view(torch.int32).squeeze(-1)


def unpack_words(words: Tensor, scales: Tensor, group: int) -> Tensor:
    """The weights that are computed with, bfloat16 [N, K]."""
    count = words.shape[0]
    pairs = words.view(torch.uint8).view(count, -1, 16)
    steps = torch.stack((pairs & 15, pairs >> 4), dim=2)  # [N, C, 2, 16]
    scale, middle = scales.view(torch.bfloat16).view(count, -1, 2, 1).float().unbind(2)  # [N, G, 1]
    return ((steps.view(count, -1, group) - 8.0) * scale + middle).bfloat16().view(count, -1)
