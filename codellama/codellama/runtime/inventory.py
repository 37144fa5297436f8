"""The models on this machine: the pocket model, a folder of the user's, and the hub's cache. Free of torch.

Only headers are read, and nothing is fetched. What cannot be read is told, not listed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from codellama.runtime.catalogue import Infill, KnownModel
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CodellamaError
from codellama.runtime.families import trained_to_infill
from codellama.runtime.locate import POCKET, hub_cache, locate, pulled
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model on disk; `name` is what the user calls it by."""

    name: str
    path: Path
    config: ModelConfig
    infill: Infill


def local_models(folder: Path | None, warn: Callable[[str], None]) -> Iterator[LocalModel]:
    """The pocket model, those in `folder`, those in the hub's cache; `warn` hears of what cannot be read."""
    yield from _opened(POCKET, locate(POCKET), warn)
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if _is_model(path):
                yield from _opened(str(path), path, warn)
    for name, path in _hub_models():
        yield from _opened(name, path, warn)


def _hub_models() -> Iterator[tuple[str, Path]]:
    """Names and newest snapshots: `models--OWNER--NAME/snapshots/REVISION`."""
    for repository in sorted(hub_cache().glob("models--*--*")):
        name = repository.name.removeprefix("models--").replace("--", "/", 1)
        if (path := pulled(name)) is not None:
            yield name, path


def _is_model(path: Path) -> bool:
    if path.suffix == ".gguf":
        return path.is_file()
    return any((path / name).is_file() for name in ("config.json", "params.json"))


def _opened(name: str, path: Path, warn: Callable[[str], None]) -> Iterator[LocalModel]:
    try:
        config = open_checkpoint(path).config
        infill = trained_to_infill(config, load_tokenizer(path).control)
    except CodellamaError as error:
        warn(str(error))
        return
    yield LocalModel(name, path, config, infill)


def missing(known: tuple[KnownModel, ...], local: list[LocalModel]) -> list[KnownModel]:
    """The published models that are not among the local ones, by their name on the hub."""
    there = {model.name for model in local}
    return [model for model in known if model.name not in there]
