"""Drafts by a second, smaller model with the same tokenizer (speculative decoding, arXiv 2211.17192).

Greedy on both sides: the smaller model names its likeliest ids, the larger one checks them in one pass and
keeps what it would have chosen itself.
"""

from collections.abc import Sequence

import torch

from codellama.runtime.generation import LanguageModel, prefill_block
from codellama.runtime.sessions import Session, Sessions
from codellama.runtime.speculate import MAX_DRAFT, Pace

# After so many drafts in a row of which nothing was kept, so many steps go without.
_FAILURES, _REST = 2, 24


class ModelDraft:
    """One request's drafts; its cache comes from `sessions`, so that the prompt's beginning is reused.

    No step waits for the whole prompt: while the smaller model has not read it, each call reads one block
    and drafts nothing.
    """

    def __init__(self, model: LanguageModel, sessions: Sessions, ids: Sequence[int], positions: int) -> None:
        self._model, self._sessions = model, sessions
        self._prompt, self._positions = len(ids), positions
        self._ids = list(ids)
        self._session: Session | None = None
        self._pace = Pace()
        self._rest = 0

    def extend(self, ids: Sequence[int]) -> None:
        """Adds what the larger model chose."""
        self._ids += ids

    def draft(self, most: int = MAX_DRAFT) -> list[int]:
        """At most `most` ids; none while the prompt is being read, and while its drafts are refused."""
        count = min(most, int(self._pace.length))
        if count < 1 or self._rest > 0:
            self._rest -= 1
            return []
        if self._session is None:
            self._session, _ = self._sessions.take(self._ids[: self._prompt], self._positions + MAX_DRAFT)
        cache = self._session.cache
        if cache.length < self._prompt:
            prefill_block(self._model, cache, self._ids[: self._prompt])
            self._session.computed(self._ids[: self._prompt])
            return []
        found: list[int] = []
        new = self._ids[cache.length :]  # since the last draft, of which the cache holds what was kept
        while len(found) < count and cache.length + len(new) <= cache.capacity:
            logits = self._model(torch.tensor([new], device=self._model.device), cache, last_only=True)
            new = [int(logits[0, -1].argmax())]
            found += new
        cache.rewind(min(len(self._ids), cache.length))
        return found

    def judged(self, drafted: int, accepted: int) -> None:
        """Tells how many ids of a draft the larger model kept."""
        self._pace.judged(drafted, accepted)
        if self._pace.failures >= _FAILURES:
            self._rest = _REST

    def close(self) -> None:
        """Gives the cache back."""
        if self._session is not None:
            self._sessions.give_back(self._session)
            self._session = None
