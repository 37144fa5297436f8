"""Models from the Hugging Face hub, through its own client: what there is, then the files, checked.

Safetensors are preferred, a .gguf file is taken where it is named or the only one, and pickled weights, which
other programs would run, only where they are asked for. Files go to the hub's own cache, so that other tools
find them; what was begun goes on where it stopped. Free of torch.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.runtime.errors import CheckpointError, InvalidRequest, ServerError, UnknownModel
from codellama.runtime.locate import hub_cache

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Progress = Callable[[int, int], None]

_BESIDE = (
    *("config.json", "generation_config.json", "params.json", "chat_template.*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
_TERMS = ("LICENSE*", "USE_POLICY*", "NOTICE*")
_SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
_PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json", "consolidated*.pth")
_PIECE = 2**20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model: bytes, and the checksum that the hub names (SHA-256; of small files Git's SHA-1)."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What pulling a model would fetch; `license` is what its card says, `gated` if it must be accepted."""

    name: str
    revision: str
    license: str
    gated: bool
    weights: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan(name: str, revision: str | None = None, file: str | None = None, pickles: bool = False) -> Plan:
    """What there is of the model `name` (OWNER/NAME) and would be fetched.

    `file` names one of several .gguf files. Raises UnknownModel, InvalidRequest where only pickled weights
    are there and `pickles` is not set, and ServerError where the hub cannot be asked.
    """
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise InvalidRequest(
            f"{name!r} is no name on the hub: give OWNER/NAME, as codellama/CodeLlama-7b-hf."
        )
    with _translated(name):
        info = _api().model_info(name, revision=revision, files_metadata=True)
    there = [_file(sibling) for sibling in info.siblings or ()]
    weights, chosen = _weights(name, there, file, pickles)
    # A .gguf file holds its description and tokenizer.
    patterns = _TERMS if weights == "gguf" else (*_BESIDE, *_TERMS)
    beside = [f for f in there if f not in chosen and any(fnmatch(f.path, pattern) for pattern in patterns)]
    card = info.card_data
    license_ = (card.get("license_name") or card.get("license")) if card else None
    return Plan(
        name, str(info.sha), str(license_ or "none named"), bool(info.gated), weights, (*chosen, *beside)
    )


def pull(wanted: Plan, progress: Progress) -> Path:
    """Fetches what the plan names and checks it; returns the folder, or the .gguf file.

    `progress` hears of the bytes that are there, and all there are. Raises as `plan` does, CheckpointError
    where a file is not what the hub says, or the disk has no room.
    """
    cache = hub_cache()
    _check_room(wanted, cache)
    done = 0
    path = cache
    for file in wanted.files:

        def move(size: int, before: int = done) -> None:
            progress(before + size, wanted.size)

        with _translated(wanted.name):
            path = Path(_fetch(wanted, file, cache, move))
        _check_content(path, file)
        done += file.size
        progress(done, wanted.size)
    folder = path.parents[len(Path(wanted.files[-1].path).parts) - 1]
    return folder / wanted.files[0].path if wanted.weights == "gguf" else folder


def _weights(
    name: str, there: Sequence[RemoteFile], file: str | None, pickles: bool
) -> tuple[str, list[RemoteFile]]:
    """The kind of weights to fetch, and their files."""
    ggufs = [f for f in there if f.path.endswith(".gguf")]
    if file is not None:
        named = [f for f in ggufs if f.path == file]
        if not named:
            names = ", ".join(f.path for f in ggufs) or "none"
            raise InvalidRequest(f"{name} has no file {file!r}: its .gguf files are {names}.")
        return "gguf", named
    tensors = _matching(there, _SAFETENSORS)
    # Some keep the same weights twice, in the original layout and in transformers'.
    ours = [f for f in tensors if f.path.startswith("model")]
    if tensors:
        return "safetensors", ours or tensors
    if len(ggufs) == 1:
        return "gguf", ggufs
    if ggufs:
        names = ", ".join(f.path for f in ggufs)
        raise InvalidRequest(f"{name} has several .gguf files: choose one with --file ({names}).")
    pickled = _matching(there, _PICKLED)
    if not pickled:
        raise InvalidRequest(f"{name} has no weights of a kind that is read here: it is no Llama checkpoint.")
    if not pickles:
        raise InvalidRequest(
            f"{name} has pickled weights only, which other programs run as code when they load them: look "
            "for one with safetensors, or add --pickles (codellama reads them without running anything)."
        )
    return "pickles", pickled


def _matching(there: Sequence[RemoteFile], patterns: Sequence[str]) -> list[RemoteFile]:
    """Files at the top: folders hold other layouts of the same."""
    return [f for f in there if "/" not in f.path and any(fnmatch(f.path, pattern) for pattern in patterns)]


def _file(sibling: Any) -> RemoteFile:
    checksum = sibling.lfs.sha256 if sibling.lfs else None
    return RemoteFile(sibling.rfilename, int(sibling.size or 0), checksum, sibling.blob_id)


def _fetch(wanted: Plan, file: RemoteFile, cache: Path, move: Callable[[int], None]) -> str:
    from huggingface_hub import hf_hub_download
    from tqdm.std import tqdm

    class Moved(tqdm):  # type: ignore[misc] # it ships no types
        """The client's own bar, which is shown nowhere and tells us."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named | {"disable": True})
            self.n = named.get("initial") or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            move(int(self.n))

    return hf_hub_download(
        wanted.name, file.path, revision=wanted.revision, cache_dir=cache, tqdm_class=Moved
    )


def _check_room(wanted: Plan, cache: Path) -> None:
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    there = cache / f"models--{wanted.name.replace('/', '--')}" / "blobs"
    held = sum(file.stat().st_size for file in there.glob("*")) if there.is_dir() else 0
    short = wanted.size - held - shutil.disk_usage(place).free
    if short > 0:
        raise CheckpointError(f"{place} lacks {short / 1e9:.1f} GB for {wanted.name}: free some space.")


def _check_content(path: Path, file: RemoteFile) -> None:
    """Raises CheckpointError, and drops the file, where it is not what the hub says."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(f"blob {path.stat().st_size}\0".encode())  # as Git names a file's content
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    expected = file.sha256 or file.blob
    if expected is not None and digest.hexdigest() != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{file.path} came damaged (its checksum is wrong): pull it again.")


def _api() -> "HfApi":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi

    return HfApi(library_name="codellama")


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """The hub's errors as ours."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InvalidRequest(
            f"{name} is given to those who accept its terms: do so at {constants.ENDPOINT}/{name}, then set "
            "HF_TOKEN to a token of yours."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise UnknownModel(
            f"The hub has no model {name!r} of that name and revision that you may see: correct it, or set "
            "HF_TOKEN where it is private."
        ) from error
    except errors.HFValidationError as error:
        raise InvalidRequest(f"{name!r} is no name on the hub: give OWNER/NAME.") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:  # type: ignore[attr-defined] # its transport's
        raise ServerError(
            f"The hub at {constants.ENDPOINT} cannot be reached ({error}): try again."
        ) from error
