"""Choosing ids where one line is asked for: all that ends the line in the same way counts as one choice.

A model that wants a line to end spreads that over its end of answer, line breaks of many widths and pieces
such as `):\\n`. Taken one by one each is unlikely, and the likeliest of the others would go on with a line
that is done.
"""

import re
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from codellama.runtime.records import Sampling
from codellama.runtime.sampling import Sampler

_BREAK = re.compile(rb"[\r\n]")
# Of the likeliest choices, those that are noted at each step.
_NOTED = 4


class LineKinds:
    """A vocabulary's ids by what they do to a line: one kind for all that end it after the same text."""

    def __init__(self, pieces: Sequence[bytes], stop_ids: Collection[int], size: int) -> None:
        """`size` is how many ids the model knows; those behind the pieces are kinds of their own."""
        ends: dict[bytes, int] = {b"": 0}
        kinds = []
        self.ids: list[list[int]] = [[]]  # of each kind
        for i in range(size):
            piece = pieces[i] if i < len(pieces) else b""
            head = b"" if i in stop_ids else _BREAK.split(piece)[0].rstrip()
            if i in stop_ids or _BREAK.search(piece):
                kind = ends.setdefault(head, len(self.ids))
            else:
                kind = len(self.ids)
            if kind == len(self.ids):
                self.ids.append([])
            self.ids[kind].append(i)
            kinds.append(kind)
        self._kinds = torch.tensor(kinds)

    def merged(self, chances: Tensor) -> Tensor:
        """The probability of each kind [K], from those of ids [V]."""
        return chances.new_zeros(len(self.ids)).index_add_(0, self._kinds.to(chances.device), chances)


class LineSampler(Sampler):
    """Greedy over kinds; notes the likeliest of them at each choice, each by its likeliest id."""

    def __init__(self, kinds: LineKinds, device: torch.device) -> None:
        super().__init__(Sampling(), device)
        self._line_kinds = kinds

    def choose(
        self, logits: Tensor, allowed: Sequence[int] | None = None, barred: Collection[int] = ()
    ) -> tuple[int, float]:
        """As `Sampler.choose`; the log-probability is the kind's. What is `barred` are whole kinds."""
        if allowed is not None:
            places = torch.tensor(allowed, device=logits.device)
            logits = torch.full_like(logits, -torch.inf).scatter(0, places, logits[places])
        # Softmax of one row runs on one thread; exp would wait for all, on a busy machine for milliseconds.
        chances = torch.softmax(logits.float(), dim=-1)
        most, kinds = self._line_kinds.merged(chances).topk(_NOTED + 1)
        self.likeliest = []
        for kind, logprob in zip(kinds.tolist(), most.log().tolist(), strict=True):
            ids = self._line_kinds.ids[kind]
            if logprob > -torch.inf and ids[0] not in barred:
                best = ids[int(chances[ids].argmax())] if len(ids) > 1 else ids[0]
                self.likeliest.append((best, logprob))
        return self.likeliest[0] if self.likeliest else super().choose(logits, allowed, barred)
