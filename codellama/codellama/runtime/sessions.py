"""The key/value caches of recent prompts: which one a new prompt goes on from, and which makes room.

A session's ids are those whose keys and values are exactly what a prompt that begins with them would have
computed itself. Where torch computes on a CPU, that is what a prefill computed in whole blocks, and never
what was decoded after it, one position at a time and in another order of summing; where every position is
computed alike, or on a GPU alike to rounding (`LanguageModel.resume_every` is 1), it is all of them.
"""

from collections.abc import Callable, Sequence

from codellama.runtime.generation import BLOCK, Cache

# More than the files that anyone edits and the questions that anyone asks at a time; and so many where all of
# them are small, as a small model's are, since a team shares it.
_SESSIONS, _MOST_SESSIONS, _SMALL_BYTES = 16, 64, 128 * 2**20


class Session:
    """One cache, and the ids that begin it, in whole steps of `every`."""

    def __init__(self, cache: Cache, every: int) -> None:
        self.cache = cache
        self._every = every
        self.ids: list[int] = []
        self.in_use = False

    def shared(self, ids: Sequence[int]) -> int:
        """How many ids, in whole steps, this session has of a prompt's; its last id is always computed."""
        return _common_length(self.ids, ids[:-1]) // self._every * self._every

    def computed(self, ids: Sequence[int]) -> None:
        """Notes what the cache holds of `ids` after a prefill, whole or interrupted."""
        self.ids += ids[len(self.ids) : self.cache.length // self._every * self._every]

    def decoded(self, ids: Sequence[int]) -> None:
        """Notes what the cache holds of a prompt and its answer, where that can be reused."""
        if self._every == 1:
            self.computed(ids)


class Sessions:
    """At most `budget` bytes of caches, as far as those in use allow; the longest unused goes first."""

    def __init__(self, new_cache: Callable[[int], Cache], budget: int, every: int = BLOCK) -> None:
        self._new_cache = new_cache
        self._every = every
        self._budget = budget
        self._sessions: list[Session] = []  # the longest unused first

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def nbytes(self) -> int:
        """What all caches hold."""
        return sum(session.cache.nbytes for session in self._sessions)

    @property
    def idle_bytes(self) -> int:
        """What the caches hold that no request uses now."""
        return sum(session.cache.nbytes for session in self._sessions if not session.in_use)

    def take(self, ids: Sequence[int], capacity: int) -> tuple[Session, int]:
        """A session for a prompt with room for `capacity` positions, and how many of its ids are there.

        The nearest session is gone on with where the prompt leaves at least half of it standing; else its
        blocks are copied, so that two documents that begin alike do not undo each other's work.
        """
        capacity = -(-capacity // BLOCK) * BLOCK
        nearest = max(self._sessions, key=lambda s: (s.shared(ids), not s.in_use), default=None)
        shared = nearest.shared(ids) if nearest else 0
        if nearest and not nearest.in_use and shared and 2 * shared >= len(nearest.ids):
            session = nearest
            self._sessions.remove(session)
            shared = session.cache.rewind(shared)
            if session.cache.capacity < capacity:
                session.cache.grow(capacity)
        else:
            session = Session(self._new_cache(capacity), self._every)
            shared = session.cache.copy(nearest.cache, shared) if nearest and shared else 0
        session.in_use = True
        session.ids = list(ids[:shared])
        self._sessions.append(session)
        self._keep_within(self._budget)
        return session, shared

    def give_back(self, session: Session) -> None:
        """Its request has ended; its ids wait for the next that begins with them."""
        session.in_use = False
        if not session.ids:
            self._sessions.remove(session)
        self._keep_within(self._budget)

    def make_room(self, nbytes: int) -> None:
        """Gives so many bytes back, as far as those in use allow."""
        self._keep_within(self.nbytes - nbytes)

    def _keep_within(self, budget: int) -> None:
        for session in [s for s in self._sessions if not s.in_use]:
            nbytes = self.nbytes
            most = _MOST_SESSIONS if nbytes <= _SMALL_BYTES else _SESSIONS
            if nbytes <= budget and len(self._sessions) <= most:
                return
            self._sessions.remove(session)


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return count
