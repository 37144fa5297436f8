"""Converts a checkpoint of any format to a Hugging Face folder or a GGUF file.

What is written grows under a name of its own beside the destination and is renamed at the end: under its
final name there is a whole model or none, whatever interrupts the work.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codellama.runtime.errors import CodellamaError, InvalidRequest

if TYPE_CHECKING:
    from codellama.runtime.weights.tensors import Checkpoint

TYPES = ("f32", "f16", "bf16", "int8", "q8_0", "q4_0")
_FOLDER_TYPES = ("f32", "f16", "bf16", "int8")
_FILE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_SPARE_BYTES = 64 * 2**20  # what headers and tokenizers may take beside the tensors


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: where, in which format and type, and how many bytes."""

    path: str
    format: Literal["hugging-face", "gguf"]
    type: str
    bytes: int


def convert(
    source: Path,
    destination: Path,
    type_: str | None = None,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Converted:
    """Writes the model at `source` as `destination`: a GGUF file if its name ends so, else a folder.

    `type_` is one of TYPES; by default that of the source's matrices, or f16 where those are quantised.
    `force` replaces an earlier model. `progress` hears of the bytes written and to write. Raises
    InvalidRequest where it cannot be done, CheckpointError where the source is damaged, CodellamaError
    where the disk is full.
    """
    from codellama.runtime.tokenizer_files import load_tokenizer
    from codellama.runtime.weights import write_gguf, write_hugging_face
    from codellama.runtime.weights.checkpoint import open_checkpoint

    file = destination.suffix == ".gguf"
    checkpoint = open_checkpoint(source)
    type_ = type_ or _type_of(checkpoint)
    _check_request(source, destination, type_, force)
    tokenizer = load_tokenizer(source)
    writer = write_gguf if file else write_hugging_face
    needed = writer.planned_bytes(checkpoint, type_) + _SPARE_BYTES
    with _replacing(destination, needed) as growing:
        writer.write(checkpoint, tokenizer, growing, type_, progress)
        size = sum(f.stat().st_size for f in ([growing] if file else growing.iterdir()))
    return Converted(str(destination), "gguf" if file else "hugging-face", type_, size)


def _type_of(checkpoint: "Checkpoint") -> str:
    """The type of the source's largest tensor, which speaks for its matrices."""
    largest = max(checkpoint.infos(), key=lambda info: prod(info.shape), default=None)
    return {"F32": "f32", "BF16": "bf16"}.get(largest.dtype if largest else "", "f16")


def _check_request(source: Path, destination: Path, type_: str, force: bool) -> None:
    if type_ not in TYPES:
        raise InvalidRequest(f"There is no type {type_!r}: choose {', '.join(TYPES)}.")
    file = destination.suffix == ".gguf"
    if type_ not in _FOLDER_TYPES and not file:
        raise InvalidRequest(
            f"A Hugging Face folder holds no {type_}: name a destination that ends in .gguf, or choose "
            f"{', '.join(_FOLDER_TYPES)}."
        )
    if type_ not in _FILE_TYPES and file:
        raise InvalidRequest(
            f"A GGUF file holds no {type_}: name a folder, or choose {', '.join(_FILE_TYPES)}."
        )
    if not destination.absolute().parent.is_dir():
        raise InvalidRequest(f"There is no folder {destination.absolute().parent}: make it first.")
    if not destination.exists():
        return
    if not force:
        raise InvalidRequest(f"{destination} exists: choose another name, or give --force to replace it.")
    if destination.samefile(source):
        raise InvalidRequest(f"{destination} is the model to convert: choose another destination.")
    if destination.is_dir() == file:
        raise InvalidRequest(
            f"{destination} is {'a folder' if file else 'no folder'}, which is not replaced: remove it first."
        )
    foreign = [] if file else [f.name for f in destination.iterdir() if not _ours(f)]
    if foreign:
        raise InvalidRequest(
            f"{destination} holds {foreign[0]}, which is no file of a model: remove it, or choose another "
            "destination."
        )


def _ours(file: Path) -> bool:
    """Whether a folder that we write may hold this: no other is ever removed."""
    from codellama.runtime.weights.write_tokenizer import COPIED

    names = ("config.json", "generation_config.json", "model.safetensors.index.json", *COPIED)
    return file.is_file() and (file.name in names or file.suffix == ".safetensors")


@contextmanager
def _replacing(destination: Path, needed: int) -> Iterator[Path]:
    """A path to write to beside the destination, which takes its place at the end, or vanishes."""
    from safetensors import SafetensorError

    growing = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    _remove_leftovers(destination)
    try:
        free = shutil.disk_usage(destination.absolute().parent).free
        if free < needed:
            raise CodellamaError(
                f"{destination} needs {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left: free "
                "some space, or write it elsewhere."
            )
        yield growing
        if destination.is_dir():
            shutil.rmtree(destination)
        growing.replace(destination)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CodellamaError(
            f"{destination} cannot be written ({reason}): free some space on its disk, or write it elsewhere."
        ) from error
    finally:
        _remove(growing)


def _remove_leftovers(destination: Path) -> None:
    """What conversions to the same destination left that were killed and could not clean up."""
    import psutil

    head, tail = f".{destination.name}.", ".part"
    for file in destination.absolute().parent.iterdir():
        process = file.name.removeprefix(head).removesuffix(tail)
        if file.name != head + process + tail or not process.isdecimal():
            continue
        if int(process) == os.getpid() or not psutil.pid_exists(int(process)):
            _remove(file)


def _remove(growing: Path) -> None:
    if growing.is_dir():
        shutil.rmtree(growing, ignore_errors=True)
    growing.unlink(missing_ok=True)
