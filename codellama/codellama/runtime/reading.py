"""A known text as a job of the scheduler's: how likely it is, in one pass behind a prompt."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from codellama.runtime.records import Sampling
from codellama.runtime.sampling import Sampler
from codellama.runtime.speculate import MAX_DRAFT


class Reading(Sampler):
    """Takes a known text's ids for the model's choices, and drafts them all: the text is read in one pass."""

    def __init__(self, ids: Sequence[int], device: torch.device) -> None:
        super().__init__(Sampling(temperature=1.0), device)
        self._ids = list(ids)
        self._read = self._extended = 0
        self.logprob = 0.0

    def choose(
        self, logits: Tensor, allowed: Sequence[int] | None = None, barred: Collection[int] = ()
    ) -> tuple[int, float]:
        """The text's next id."""
        token = self._ids[self._read]
        # As a sampler does: logsumexp would wait for all threads, on a busy machine for milliseconds.
        return token, float(torch.log_softmax(logits.float(), dim=-1)[token])

    def take(self, token: int, logprob: float) -> bool:
        """Counts an id; whether the text goes on."""
        self._read += 1
        self.logprob += logprob
        return self._read < len(self._ids)

    def extend(self, ids: Sequence[int]) -> None:
        """As a drafter: so many ids were run."""
        self._extended += len(ids)

    def draft(self, most: int = MAX_DRAFT) -> list[int]:
        """As a drafter: the rest of the text."""
        return self._ids[self._extended : self._extended + most]

    def judged(self, drafted: int, accepted: int) -> None:
        """As a drafter: nothing to learn."""

    def close(self) -> None:
        """As a drafter: nothing is held."""
