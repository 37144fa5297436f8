"""Chooses the next token from logits."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from codellama.runtime.records import Sampling


class Sampler:
    """Greedy at temperature 0; else temperature and nucleus sampling, repeatable by seed."""

    def __init__(self, sampling: Sampling, device: torch.device, top: int = 0) -> None:
        """`top` is how many of the likeliest are noted at each choice."""
        self._top = top
        self.likeliest: list[tuple[int, float]] = []  # at the last choice, with their log-probabilities
        self._temperature = sampling.temperature
        self._top_p, self._min_p = sampling.top_p, sampling.min_p
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest id is always chosen."""
        return self._temperature == 0

    def choose(
        self, logits: Tensor, allowed: Sequence[int] | None = None, barred: Collection[int] = ()
    ) -> tuple[int, float]:
        """The next id and its log-probability under the model (temperature 1), from logits [V].

        With `allowed` the others are impossible, and the probability is one among the allowed. What is
        `barred` is not chosen, and keeps its share of the probability: a model that wants nothing else is
        unsure of all else. A GPU is waited for once.
        """
        if allowed is not None:
            places = torch.tensor(allowed, device=logits.device)
            logits = torch.full_like(logits, -torch.inf).scatter(0, places, logits[places])
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        if self._top:
            values, ids = logprobs.topk(min(self._top, logprobs.shape[0]))
            self.likeliest = list(zip(ids.tolist(), values.tolist(), strict=True))
        if barred:
            logits = logits.index_fill(0, torch.tensor(sorted(barred), device=logits.device), -torch.inf)
        if self.greedy:
            return _read(logits.argmax(), logprobs)
        weights = torch.softmax(logits.float() / self._temperature, dim=-1)
        if self._top_p < 1:
            weights = _nucleus(weights, self._top_p)
        if self._min_p > 0:  # arXiv 2407.01082
            weights = weights.masked_fill(weights < self._min_p * weights.max(), 0.0)
        return _read(torch.multinomial(weights, 1, generator=self._generator), logprobs)


def _read(choice: Tensor, logprobs: Tensor) -> tuple[int, float]:
    """Both numbers in one transfer; float64 holds an id and a float32 exactly."""
    choice = choice.view(1)
    found: list[float] = torch.cat((choice.double(), logprobs.gather(0, choice).double())).tolist()
    return int(found[0]), found[1]


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Zeroes what lies outside the nucleus (arXiv 1904.09751), as the reference: cumsum - p > top_p."""
    ordered, places = weights.sort(descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(0) - ordered > top_p, 0.0)
    return torch.zeros_like(weights).scatter(0, places, ordered)
