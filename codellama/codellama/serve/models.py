"""The models in memory, by role, under one budget of memory.

A model is loaded when it is first wanted; where the budget has no room for it, those that nobody uses
make way, the longest unused first.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from codellama.runtime.classifier import Classifier
from codellama.runtime.device import find_device
from codellama.runtime.embedding import EmbeddingModel
from codellama.runtime.engine import Engine
from codellama.runtime.errors import CheckpointError, CodellamaError, ServerBusy, UnknownModel
from codellama.runtime.footprint import Precision, weight_bytes
from codellama.runtime.load import load_engine
from codellama.runtime.locate import is_path, locate
from codellama.runtime.memory import usable_bytes
from codellama.runtime.records import Result
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.serve.api import ModelInfo
from codellama.serve.load_progress import load_progress

_PRECISIONS: dict[str, Precision] = {"int8": "q8_0", "int4": "q4_0", "float32": "f32"}
# A measured rate moves by this share towards that of the newest request, if that had so many tokens.
_RECENT, _TELLING = 0.2, 4
_SMALL = 2  # embedding models, and classifiers, that stay in memory

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Loading:
    """How models are loaded; `memory_bytes` is what all of them may take, 0 what is free."""

    device: str = "auto"
    dtype: str = "auto"
    quantize: str = "auto"
    max_context: int | None = None
    memory_bytes: int = 0
    quantize_cache: str = "none"
    draft_model: str = ""  # guesses for the model of conversations


@dataclass(slots=True)
class _Resident:
    """A model in memory."""

    engine: Engine
    info: ModelInfo
    nbytes: int
    users: int = 0
    used_at: float = 0.0


class Models:
    """Engines by the place of their checkpoint; safe to use from several threads.

    `roles` gives the model of each role (completion, chat). With `only_roles` no other is loaded, which
    is for servers that others than the owner use: what lies on the disk is not for them to name.
    """

    def __init__(self, loading: Loading, roles: dict[str, str], only_roles: bool = False) -> None:
        self._loading = loading
        self._roles = roles
        self._only_roles = only_roles
        self._resident: dict[Path, _Resident] = {}
        self._encoders: dict[str, EmbeddingModel] = {}
        self._classifiers: dict[str, Classifier] = {}
        self.loading: tuple[int, int] | None = None  # bytes loaded and to load, while a model is
        self._lock = threading.Lock()  # of the tables, for moments
        self._load_lock = threading.Lock()  # one load at a time, which keeps no loaded model waiting

    @property
    def on_gpu(self) -> bool:
        """Whether models compute elsewhere than on the processor; raises InvalidRequest as `find_device`."""
        return find_device(self._loading.device).type != "cpu"

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a model, which nothing can stop."""
        return self._load_lock.locked()

    def name(self, asked: str, role: str) -> str:
        """The model that a request means: by name, by role, or where it names none by what it wants."""
        return self._roles.get(asked or role) or asked or self._roles["completion"]

    @property
    def roles(self) -> Mapping[str, str]:
        """The model of each role."""
        return self._roles

    def infos(self) -> tuple[ModelInfo, ...]:
        """What is in memory now."""
        return tuple(resident.info for resident in list(self._resident.values()))

    def info(self, name: str) -> ModelInfo | None:
        """What is known of a model in memory, however its path is spelled."""
        try:
            resident = self._resident.get(locate(name))
        except UnknownModel:
            return None
        return resident.info if resident else None

    @contextmanager
    def using(self, name: str) -> Iterator[Engine]:
        """The engine, loaded where it is not yet; it stays while the block lasts.

        Raises as `load_engine` does, and ServerBusy or CheckpointError where there is no room.
        """
        resident = self._take(name)
        try:
            yield resident.engine
        finally:
            with self._lock:
                resident.users -= 1
                resident.used_at = time.monotonic()

    def encoder(self, name: str) -> EmbeddingModel:
        """The embedding model, loaded where it is not yet; they are small, and the last two stay.

        Raises as `EmbeddingModel` does, and UnknownModel where others than the owner use this server.
        """
        return self._small(name, self._encoders, EmbeddingModel, "embedding model")

    def classifier(self, name: str) -> Classifier:
        """The classifier, as `encoder` gives its models; raises as `Classifier` does, and UnknownModel."""
        return self._small(name, self._classifiers, Classifier, "classifier")

    def _small(self, name: str, loaded: dict[str, S], load: Callable[[str], S], kind: str) -> S:
        if self._only_roles:
            raise UnknownModel(f"There is no {kind} here: ask a server on your own machine.")
        place = str(Path(name).expanduser().resolve()) if is_path(name) else name
        if (there := self._kept(place, loaded)) is not None:  # without waiting for another model's load
            return there
        with self._load_lock:
            if (there := self._kept(place, loaded)) is not None:  # another request has loaded it meanwhile
                return there
            logging.info("loading the %s %s", kind, name)
            there = load(name)
            with self._lock:
                loaded[place] = there
                while len(loaded) > _SMALL:
                    del loaded[next(iter(loaded))]
            return there

    def _kept(self, place: str, loaded: dict[str, S]) -> S | None:
        """The model if it is in memory; it is then the last in the order of use."""
        with self._lock:
            there = loaded.pop(place, None)
            if there is not None:
                loaded[place] = there
            return there

    def measured(self, name: str, result: Result) -> None:
        """Takes what an answer took into the model's rates."""
        stats = result.stats
        place = locate(name)
        with self._lock:
            if (resident := self._resident.get(place)) is not None:
                old = resident.info
                computed = stats.prompt_tokens - stats.reused_tokens
                resident.info = replace(
                    old,
                    prefill_rate=_rate(old.prefill_rate, computed, stats.prefill_s),
                    decode_rate=_rate(old.decode_rate, stats.tokens, stats.decode_s),
                )

    def _take(self, name: str) -> _Resident:
        if self._only_roles and name not in self._roles.values():
            raise UnknownModel(f"There is no model {name!r} here: leave it out, or ask GET /v1/models.")
        place = locate(name)
        if (there := self._taken(place)) is not None:
            return there
        with self._load_lock:
            if (there := self._taken(place)) is not None:  # another request has loaded it meanwhile
                return there
            loaded = self._load(name, place)
            loaded.users = 1
            with self._lock:
                self._resident[place] = loaded
            return loaded

    def _taken(self, place: Path) -> _Resident | None:
        with self._lock:
            resident = self._resident.get(place)
            if resident is not None:
                resident.users += 1
                resident.used_at = time.monotonic()
            return resident

    def _load(self, name: str, place: Path) -> _Resident:
        how = self._loading
        nbytes = self._needed(place)
        self._make_room(name, nbytes)
        logging.info("loading the model %s", name)
        told = load_progress(name)
        chats = name == self._roles.get("chat")

        def progress(done: int, of: int) -> None:
            self.loading = (done, of)
            told(done, of)

        try:
            engine = load_engine(
                name,
                device=how.device,
                dtype=how.dtype,
                quantize=how.quantize,
                max_context=how.max_context,
                progress=progress,
                quantize_cache=how.quantize_cache,
                draft=(how.draft_model or None) if chats else None,
            )
        finally:
            self.loading = None
        c = engine.config
        role = ",".join(role for role, model in self._roles.items() if model == name)
        return _Resident(
            engine, ModelInfo(name, c.family, c.max_context, c.can_infill, c.can_chat, role), nbytes
        )

    def _needed(self, place: Path) -> int:
        """Bytes of the weights as they will be kept."""
        try:
            config = open_checkpoint(place).config
        except CodellamaError:  # loading says what is wrong, or runs it through transformers
            files = place.glob("*.safetensors") if place.is_dir() else (place,)
            return sum(file.stat().st_size for file in files)
        how, on_cpu = self._loading, find_device(self._loading.device).type == "cpu"
        bits = how.quantize if how.quantize != "auto" else "int8" if on_cpu else "none"
        if bits not in _PRECISIONS:
            bits = "float32" if how.dtype == "auto" and on_cpu else how.dtype
        return weight_bytes(config, _PRECISIONS.get(bits, "bf16"))

    def _make_room(self, name: str, nbytes: int) -> None:
        """Ends idle models until `nbytes` fit; no other load is under way."""
        while nbytes > (room := self._room()):
            if self._end_an_idle_one(name):
                gc.collect()  # what holds its tensors may stand in cycles
            elif self._resident:
                raise ServerBusy(f"The models in use leave no room for {name}: try again in a moment.")
            else:
                raise CheckpointError(
                    f"The model {name} takes {nbytes / 1e9:.1f} GB and there is room for {room / 1e9:.1f}: "
                    "close other programs, set engine.quantize or engine.memory_gb, or choose a smaller one."
                )

    def _end_an_idle_one(self, name: str) -> bool:
        """Forgets the longest unused model; False where all are in use."""
        with self._lock:
            idle = [(r.used_at, place) for place, r in self._resident.items() if not r.users]
            if idle:
                ended = self._resident.pop(min(idle)[1])
                logging.info("the model %s makes room for %s", ended.info.name, name)
            return bool(idle)

    def _room(self) -> int:
        if self._loading.memory_bytes:
            return self._loading.memory_bytes - sum(r.nbytes for r in list(self._resident.values()))
        return usable_bytes(find_device(self._loading.device))


def _rate(old: float | None, tokens: int, seconds: float) -> float | None:
    """Tokens per second, moved a step towards the newest; a handful of tokens tells nothing."""
    if tokens < _TELLING or seconds <= 0:
        return old
    new = tokens / seconds
    return new if old is None else old + _RECENT * (new - old)
