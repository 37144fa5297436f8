"""What is in memory under one budget: models of every kind, each loaded once, when it is first wanted.

Where the budget has no room for another, those that nobody uses make way, the longest unused first. How a
model is loaded, and what it takes, is for the caller to say (see models).
"""

import gc
import itertools
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from codellama.runtime.errors import CheckpointError, ServerBusy

M = TypeVar("M")


@dataclass(eq=False, slots=True)
class Resident(Generic[M]):
    """A model in memory: its kind in words, what its weights take of a device, and who uses it."""

    kind: str
    name: str
    model: M
    nbytes: int
    device: str
    users: int = 0
    used: int = 0  # the number of its last use


class Residents:
    """Models by their kind and place; safe to use from several threads.

    `budget` is what the weights of all may take, in bytes; 0 is what `free` tells of their device.
    """

    def __init__(self, budget: int, free: Callable[[str], int]) -> None:
        self._budget, self._free = budget, free
        self._there: dict[Hashable, Resident[Any]] = {}
        self._uses = itertools.count(1)
        self._lock = threading.Lock()  # of the table, for moments
        self._load_lock = threading.Lock()  # one load at a time, which keeps no loaded model waiting

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a model, which nothing can stop."""
        return self._load_lock.locked()

    def all(self) -> list[Resident[Any]]:
        """What is in memory now."""
        with self._lock:
            return list(self._there.values())

    def get(self, place: Hashable) -> Resident[Any] | None:
        """What is in memory of a place, without using it."""
        with self._lock:
            return self._there.get(place)

    @contextmanager
    def using(self, place: Hashable, load: Callable[[], Resident[M]]) -> Iterator[Resident[M]]:
        """The model of a place, by `load` where it is not in memory yet; it stays while the block lasts.

        Raises as `load` does, which asks for room itself.
        """
        there: Resident[M] = self._taken(place) or self._loaded(place, load)
        try:
            yield there
        finally:
            with self._lock:
                there.users -= 1
                there.used = next(self._uses)

    def make_room(self, kind: str, name: str, nbytes: int, device: str, settings: str) -> None:
        """Ends idle models until `nbytes` fit; from within `load`.

        Raises ServerBusy where those in use leave no room, CheckpointError, which names `settings`, where
        there is none at all.
        """
        room = self._budget
        if not 0 < room < nbytes:  # else to end others would be in vain
            while nbytes > (room := self._room(device)):
                if self._end_idle(f"{kind} {name}", lambda resident: self._counts(resident, device)):
                    gc.collect()  # what holds its tensors may stand in cycles
                elif any(self._counts(resident, device) for resident in self.all()):
                    raise ServerBusy(f"The models in use leave no room for {name}: try again in a moment.")
                else:
                    break
            else:
                return
        raise CheckpointError(
            f"The {kind} {name} takes {nbytes / 1e9:.1f} GB and there is room for {room / 1e9:.1f}: "
            f"close other programs, set {settings}, or choose a smaller one."
        )

    def keep(self, kind: str, most: int) -> None:
        """Ends idle models of a kind as long as there are more than `most`."""
        while sum(resident.kind == kind for resident in self.all()) > most:
            if not self._end_idle(f"next {kind}", lambda resident: resident.kind == kind):
                return

    def _taken(self, place: Hashable) -> Resident[Any] | None:
        with self._lock:
            there = self._there.get(place)
            if there is not None:
                there.users += 1
            return there

    def _loaded(self, place: Hashable, load: Callable[[], Resident[M]]) -> Resident[M]:
        with self._load_lock:
            there: Resident[M] | None = self._taken(place)
            if there is None:  # else another request has loaded it meanwhile
                there = load()
                there.users = 1
                with self._lock:
                    self._there[place] = there
            return there

    def _end_idle(self, newcomer: str, of: Callable[[Resident[Any]], bool]) -> bool:
        """Forgets the longest unused model of some; False where there is none, or all are in use."""
        with self._lock:
            idle = [(r.used, place) for place, r in self._there.items() if not r.users and of(r)]
            if idle:
                ended = self._there.pop(min(idle, key=lambda pair: pair[0])[1])
                logging.info("the %s %s makes room for the %s", ended.kind, ended.name, newcomer)
            return bool(idle)

    def _counts(self, resident: Resident[Any], device: str) -> bool:
        """Whether a model takes of the same memory as one on `device`: a budget is of all devices."""
        return bool(self._budget) or resident.device == device

    def _room(self, device: str) -> int:
        if self._budget:
            return self._budget - sum(resident.nbytes for resident in self.all())
        return self._free(device)
