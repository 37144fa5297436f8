"""Reads the headers of PyTorch's own files (.pth, .bin) without PyTorch, running nothing that they hold.

Such a file is a zip archive: a pickle that describes the tensors, and an uncompressed entry for each storage.
`torch.load(weights_only=True)` would need torch and memory for the whole file; this reader understands only
the few operations that a table of tensors needs, and refuses all else by name. It calls nothing that a file
names.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.mapped import ITEM_BYTES, Extent
from codellama.runtime.weights.tensors import AGAIN, shown

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_ITEM_BYTES = {**ITEM_BYTES, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# A table of tensors is far smaller; larger ones would take long to read.
_MOST_TABLE_BYTES = 16 * 2**20
_MOST_DIRECTORY_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class _Stored:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def extents(file: Path) -> list[Extent]:
    """Where the tensors of a PyTorch file lie; raises CheckpointError naming file and tensor."""
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            _check_directory(file, content, size)
            with zipfile.ZipFile(content) as archive:
                table, entries = _table(file, archive)
                return _placed(file, table, entries, content, size)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing: a model folder needs all its files.") from error
    except (OSError, zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({shown(str(error))}): {AGAIN}") from error


def _check_directory(file: Path, content: io.BufferedReader, size: int) -> None:
    """Refuses other formats, and archives with more entries than a checkpoint can have."""
    start = content.read(4)
    if start != b"PK\x03\x04":
        raise CheckpointError(
            f"{file} is no archive of PyTorch's (the format since version 1.6) or is damaged: fetch it "
            "again, or save it anew with a current PyTorch."
        )
    content.seek(max(0, size - 22 - 20 - 56 - 2**16))
    tail = content.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise CheckpointError(f"{file} ends before its directory does: {AGAIN}")
    directory = struct.unpack_from("<I", tail, end + 12)[0]
    large = tail.rfind(b"PK\x06\x06", 0, end)
    if directory == 0xFFFFFFFF and 0 <= large <= len(tail) - 48:
        directory = struct.unpack_from("<Q", tail, large + 40)[0]
    if directory > min(size, _MOST_DIRECTORY_BYTES):
        raise CheckpointError(f"{file} claims a directory of {directory} bytes: {AGAIN}")


def _table(file: Path, archive: zipfile.ZipFile) -> tuple[dict[str, Any], dict[str, zipfile.ZipInfo]]:
    """The unpickled table, and the storages by their keys."""
    infos = {info.filename: info for info in archive.infolist()}
    names = [name for name in infos if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise CheckpointError(f"{file} holds no table of tensors: {AGAIN}")
    folder = names[0].removesuffix("data.pkl")
    order = infos.get(f"{folder}byteorder")
    if order and order.file_size == 3 and archive.read(order) == b"big":
        raise CheckpointError(f"{file} was written on a big-endian machine: save it anew on another.")
    description = infos[names[0]]
    if description.file_size > _MOST_TABLE_BYTES or description.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            f"{file} holds a table of {description.file_size} bytes, too many or packed: {AGAIN}"
        )
    try:
        table = _Table(file, archive.read(description)).load()
    except CheckpointError:
        raise
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file} holds a damaged table ({shown(str(error)) or type(error).__name__}): {AGAIN}"
        ) from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{file} holds no table of tensors: {AGAIN}")
    data = f"{folder}data/"
    return table, {name.removeprefix(data): info for name, info in infos.items() if name.startswith(data)}


# What unpickling damaged bytes may raise.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, ArithmeticError, LookupError, TypeError, ValueError),
    *(AttributeError, AssertionError, struct.error, RecursionError, MemoryError),
)


class _Table(pickle._Unpickler):
    """Unpickles plain containers, numbers, texts and descriptions of tensors, and nothing else.

    It is the pure-Python unpickler, whose memo grows only with what it holds.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {}
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._path = file

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        known = _KNOWN.get((module, name))
        if known is None:
            raise CheckpointError(
                f"{self._path} asks to run {shown(f'{module}.{name}')}: it holds code beside weights and was "
                "not read; use a checkpoint in safetensors from a source that you trust."
            )
        return known

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, elements = pid
        if kind != "storage" or not (type(dtype) is type(key) is str) or type(elements) is not int:
            raise ValueError("it refers to no storage")
        return _Storage(key, dtype, elements)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        # Only texts are hashed: the hash of tuples inside tuples takes time without end.
        if not all(type(key) is str for key in items[::2]):
            raise ValueError("a name is no text")
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("it puts a value into what is no table")
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_newobj(self) -> None:
        self.stack.pop()
        if self.stack.pop() is not _bytes:
            raise ValueError("it makes an object that is none of a table's")
        self.stack.append(_BYTES)

    def load_build(self) -> None:
        self.stack.pop()  # the version notes that a state dict carries, or the content of bytes


def _allow() -> None:
    """Keeps only the operations that PyTorch's tables are made of."""
    plain = (
        *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS"),
        *(
            "EMPTY_TUPLE",
            "TUPLE",
            "TUPLE1",
            "TUPLE2",
            "TUPLE3",
            "GLOBAL",
            "STACK_GLOBAL",
            "BINPERSID",
            "REDUCE",
        ),
    )
    for name in plain:
        code = getattr(pickle, name)[0]
        _Table.dispatch[code] = pickle._Unpickler.dispatch[code]
    _Table.dispatch[pickle.SETITEM[0]] = _Table.load_setitem
    _Table.dispatch[pickle.SETITEMS[0]] = _Table.load_setitems
    _Table.dispatch[pickle.BUILD[0]] = _Table.load_build
    _Table.dispatch[pickle.NEWOBJ[0]] = _Table.load_newobj


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Stored:
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise ValueError("it describes no tensor")
    if not all(type(n) is int and 0 <= n < 2**60 for n in sizes):
        raise ValueError("a tensor has no size")
    return _Stored(storage, offset, tuple(shape), tuple(strides))


def _parameter(stored: Any, *_: Any) -> Any:
    return stored


def _ordered_dict() -> dict[str, Any]:
    return {}


def _bytes(*_: Any) -> object:
    """Bytes, which Llama 4's files hold beside tensors: the layers' extra state, of no use to us."""
    return _BYTES


_BYTES = object()
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): _ordered_dict,
    ("_io", "BytesIO"): _bytes,
    ("_codecs", "encode"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "bytes"): _bytes,
}
_allow()


def _placed(
    file: Path,
    table: dict[str, Any],
    entries: dict[str, zipfile.ZipInfo],
    content: io.BufferedReader,
    size: int,
) -> list[Extent]:
    """Where each tensor lies, checked against its storage, its entry and the file."""

    def refuse(name: str, problem: str) -> NoReturn:
        raise CheckpointError(f"{file}: the tensor {shown(name)} {problem}: {AGAIN}")

    starts: dict[str, int] = {}
    found: list[Extent] = []
    for name, stored in table.items():
        if stored is _BYTES:
            continue
        if not isinstance(stored, _Stored):
            refuse(name, "is no tensor")
        storage = stored.storage
        entry = entries.get(storage.key)
        width = _ITEM_BYTES[storage.dtype]
        if entry is None:
            refuse(name, "has no data")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < storage.elements * width:
            refuse(name, f"has {entry.file_size} bytes of data, not {storage.elements * width}")
        if storage.key not in starts:
            content.seek(entry.header_offset + 26)
            starts[storage.key] = entry.header_offset + 30 + sum(struct.unpack("<HH", content.read(4)))
        start = starts[storage.key]
        if start + entry.file_size > size:
            refuse(name, "ends behind the file's end")
        if prod(stored.shape) > storage.elements:
            refuse(name, f"has the shape {stored.shape} and {storage.elements} elements")
        extent = Extent(
            name, stored.shape, stored.strides, storage.dtype, file, start + stored.offset * width
        )
        if prod(stored.shape) and stored.offset + extent.span > storage.elements:
            refuse(name, "reaches out of its data")
        found.append(extent)
    _check_apart(file, starts, entries)
    return found


def _check_apart(file: Path, starts: dict[str, int], entries: dict[str, zipfile.ZipInfo]) -> None:
    end = 0
    for key, start in sorted(starts.items(), key=lambda item: item[1]):
        if start < end:
            raise CheckpointError(f"{file} lets the data of two tensors overlap, at {key!r:.80}: {AGAIN}")
        end = start + entries[key].file_size
