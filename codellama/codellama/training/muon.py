"""Muon for many matrices of few shapes: torch's arithmetic, the matrices of a shape at once.

torch's own walks from matrix to matrix, some two thousand small kernels an update for a model of 8 layers.
On an H200 updates of 131,072 tokens took 107 ms with it, in trials of seconds, and 77 ms with this, in the
whole run.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Keller Jordan, https://kellerjordan.github.io/posts/muon/: the quintic iteration's coefficients.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_LEAST = 1e-7


class Muon(torch.optim.Optimizer):
    """As `torch.optim.Muon` with Nesterov momentum and its original adjustment of the rate."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        steps: int = 5,
    ) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps}
        super().__init__([{"params": alike} for alike in by_shape.values()], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves every matrix."""
        assert closure is None
        for group in self.param_groups:
            matrices: list[Tensor] = group["params"]
            gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            assert len(gradients) == len(matrices)
            momenta = self._momenta(matrices[0], gradients)
            momenta.lerp_(gradients, 1 - group["momentum"])
            moves = orthogonal(gradients.lerp(momenta, group["momentum"]), group["steps"])
            rows, columns = matrices[0].shape
            rate = group["lr"] * max(1, rows / columns) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, [*moves.to(matrices[0].dtype)], alpha=-rate)

    def _momenta(self, first: Tensor, gradients: Tensor) -> Tensor:
        """Of all matrices of a shape [N, R, C]; kept with the first."""
        state: dict[str, Any] = self.state[first]
        if not state:
            state["momenta"] = torch.zeros_like(gradients)
        momenta: Tensor = state["momenta"]
        return momenta


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """About U V^T of each U S V^T in [N, R, C], by Newton and Schulz's iteration, in bfloat16."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
