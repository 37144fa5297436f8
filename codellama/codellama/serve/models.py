"""The models of the server: by role or by name, each as it is asked for, under one budget of memory.

Which of them stay in memory is for `residents` to say; here stands how each kind is loaded and what it takes.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from codellama.runtime.classifier import Classifier
from codellama.runtime.device import find_device
from codellama.runtime.embedding import EmbeddingModel
from codellama.runtime.engine import Engine
from codellama.runtime.errors import CodellamaError, UnknownModel
from codellama.runtime.footprint import Precision, weight_bytes
from codellama.runtime.load import load_engine
from codellama.runtime.locate import is_path, locate, pulled
from codellama.runtime.memory import usable_bytes
from codellama.runtime.records import Result
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.serve.api import ModelInfo
from codellama.serve.load_progress import load_progress
from codellama.serve.residents import Resident, Residents

_PRECISIONS: dict[str, Precision] = {"int8": "q8_0", "int4": "q4_0", "float32": "f32"}
# A measured rate moves by this share towards that of the newest request, if that had so many tokens.
_RECENT, _TELLING = 0.2, 4
_UNNAMED_OWNER = "sentence-transformers"  # of hub ids without one
_SMALL = 2  # embedding models, and classifiers, that stay in memory

S = TypeVar("S", EmbeddingModel, Classifier)


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
class _Generating:
    """A model that generates, and what is known of it."""

    engine: Engine
    info: ModelInfo


class Models:
    """What the server computes with; safe to use from several threads.

    `roles` gives the model of each role (completion, chat). With `only_roles` no other is loaded, which
    is for servers that others than the owner use: what lies on the disk is not for them to name.
    """

    def __init__(self, loading: Loading, roles: dict[str, str], only_roles: bool = False) -> None:
        self._loading = loading
        self._roles = roles
        self._only_roles = only_roles
        self._residents = Residents(loading.memory_bytes, lambda device: usable_bytes(find_device(device)))
        self.loading: tuple[int, int] | None = None  # bytes loaded and to load, while a model is
        self._lock = threading.Lock()  # of what is known of models

    @property
    def on_gpu(self) -> bool:
        """Whether models compute elsewhere than on the processor; raises InvalidRequest as `find_device`."""
        return find_device(self._loading.device).type != "cpu"

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a model, which nothing can stop."""
        return self._residents.is_loading

    def name(self, asked: str, role: str) -> str:
        """The model that a request means: by name, by role, or where it names none by what it wants."""
        return self._roles.get(asked or role) or asked or self._roles["completion"]

    @property
    def roles(self) -> Mapping[str, str]:
        """The model of each role."""
        return self._roles

    def infos(self) -> tuple[ModelInfo, ...]:
        """The models in memory that generate."""
        found = (resident.model for resident in self._residents.all())
        return tuple(model.info for model in found if isinstance(model, _Generating))

    def info(self, name: str) -> ModelInfo | None:
        """What is known of a model in memory, however its path is spelled."""
        try:
            resident = self._residents.get(locate(name))
        except UnknownModel:
            return None
        return resident.model.info if resident else None

    @contextmanager
    def using(self, name: str) -> Iterator[Engine]:
        """The engine, loaded where it is not yet; it stays while the block lasts.

        Raises as `load_engine` does, and ServerBusy or CheckpointError where there is no room.
        """
        if self._only_roles and name not in self._roles.values():
            raise UnknownModel(f"There is no model {name!r} here: leave it out, or ask GET /v1/models.")
        place = locate(name)
        with self._residents.using(place, lambda: self._load(name, place)) as resident:
            yield resident.model.engine

    @contextmanager
    def encoder(self, name: str) -> Iterator[EmbeddingModel]:
        """The embedding model, loaded where it is not yet; it stays while the block lasts.

        The two that were used last stay beyond. Raises as `EmbeddingModel` does, as `using` for want of room,
        and UnknownModel where others than the owner use this server.
        """
        device = str(find_device(self._loading.device))
        with self._small("embedding model", name, device, lambda: EmbeddingModel(name, device)) as model:
            yield model

    @contextmanager
    def classifier(self, name: str) -> Iterator[Classifier]:
        """The classifier, as `encoder` gives its models; raises as that does and as `Classifier`."""
        with self._small("classifier", name, "cpu", lambda: Classifier(name)) as model:
            yield model

    @contextmanager
    def _small(self, kind: str, name: str, device: str, load: Callable[[], S]) -> Iterator[S]:
        if self._only_roles:
            raise UnknownModel(f"There is no {kind} here: ask a server on your own machine.")
        place = str(Path(name).expanduser().resolve()) if is_path(name) else name

        def loaded() -> Resident[S]:
            self._residents.make_room(kind, name, _stored_bytes(name), device, "engine.memory_gb")
            logging.info("loading the %s %s", kind, name)
            model = load()
            return Resident(kind, name, model, model.nbytes, device)

        with self._residents.using((kind, place), loaded) as resident:
            self._residents.keep(kind, _SMALL)
            yield resident.model

    def measured(self, name: str, result: Result) -> None:
        """Takes what an answer took into the model's rates."""
        stats = result.stats
        place = locate(name)
        with self._lock:
            if (resident := self._residents.get(place)) is not None:
                old = resident.model.info
                computed = stats.prompt_tokens - stats.reused_tokens
                resident.model.info = replace(
                    old,
                    prefill_rate=_rate(old.prefill_rate, computed, stats.prefill_s),
                    decode_rate=_rate(old.decode_rate, stats.tokens, stats.decode_s),
                )

    def _load(self, name: str, place: Path) -> Resident[_Generating]:
        how = self._loading
        nbytes, device = self._needed(place), str(find_device(how.device))
        self._residents.make_room("model", name, nbytes, device, "engine.quantize or engine.memory_gb")
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
        info = ModelInfo(name, c.family, c.max_context, c.can_infill, c.can_chat, role)
        return Resident("model", name, _Generating(engine, info), nbytes, device)

    def _needed(self, place: Path) -> int:
        """Bytes of the weights as they will be kept."""
        try:
            config = open_checkpoint(place).config
        except CodellamaError:  # loading says what is wrong, or runs it through transformers
            return _stored_bytes(place)
        how, on_cpu = self._loading, find_device(self._loading.device).type == "cpu"
        bits = how.quantize if how.quantize != "auto" else "int8" if on_cpu else "none"
        if bits not in _PRECISIONS:
            bits = "float32" if how.dtype == "auto" and on_cpu else how.dtype
        return weight_bytes(config, _PRECISIONS.get(bits, "bf16"))


def _stored_bytes(place: Path | str) -> int:
    """Bytes of the weights of a folder, file or hub id on the disk; 0 where loading says what is wrong."""
    if isinstance(place, str) and not is_path(place):
        found = pulled(place) or pulled(f"{_UNNAMED_OWNER}/{place}")
    else:
        found = Path(place).expanduser()
    if found is None or found.is_file():
        return found.stat().st_size if found else 0
    kinds = (list(found.rglob(pattern)) for pattern in ("*.safetensors", "*.bin"))
    return sum(file.stat().st_size for file in next(filter(None, kinds), []))


def _rate(old: float | None, tokens: int, seconds: float) -> float | None:
    """Tokens per second, moved a step towards the newest; a handful of tokens tells nothing."""
    if tokens < _TELLING or seconds <= 0:
        return old
    new = tokens / seconds
    return new if old is None else old + _RECENT * (new - old)
