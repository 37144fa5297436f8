"""Passages by their meaning: what an embedding model is handed, and which of them are nearest to a question.

The model is the caller's, for nothing here knows models: an `Encode` turns texts into vectors. They are kept
per content and model, in half precision, and compared one by one with numpy. Tests, vendored and generated
files and data are left out: words find them well enough, and encoding takes long.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codellama_index.languages import is_code
from codellama_index.queries import Queries, Unencoded
from codellama_index.rank import is_secondary
from codellama_index.records import Encoded, QuestionVector
from codellama_index.sync import Progress, Step
from codellama_index.workers import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Place = tuple[str, int, int]
ReadLines = Callable[[str], list[str]]
# Texts to as many vectors of length 1.
Encode = Callable[[Sequence[str]], "NDArray[np.float32]"]
Save = Callable[[Sequence[tuple[bytes, bytes]]], None]

_AT_ONCE = 16  # texts that are handed over together; between two such batches the work can be cancelled
_SAVED_TOGETHER = 64  # vectors
_LONGEST = 2000  # characters of a passage; embedding models read a few hundred tokens
_NEAREST = 100  # passages that have a say in what is found


def waiting(queries: Queries, model: str) -> list[Unencoded]:
    """The code files whose passages have no vectors of this model, the most central first, a content once."""
    found = {
        file.digest: file
        for file in reversed(queries.unencoded(model))
        if not is_secondary(file.path) and is_code(file.path)
    }
    return list(reversed(found.values()))


def encode_files(
    queries: Queries,
    root: Path,
    read_lines: ReadLines,
    model: str,
    encode: Encode,
    save: Save,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Encoded:
    """Encodes what is `waiting`; `save` gets (content's hash, vectors) of some files at a time.

    What is saved stays when the work is cancelled or `encode` raises. A file that has changed since it was
    indexed is left for the next time.
    """
    files = waiting(queries, model)
    done = size = passages = 0
    batch: list[tuple[bytes, bytes]] = []
    unsaved = 0
    try:
        for file in files:
            texts = list(_texts(queries, read_lines, file.path))
            if digest_of(str(root), file.path) == file.digest:
                vectors = _encoded(texts, encode, cancelled)
                if vectors is None:
                    break
                batch.append((file.digest, vectors))
                passages, unsaved = passages + len(texts), unsaved + len(texts)
            done, size = done + 1, size + file.bytes
            if unsaved >= _SAVED_TOGETHER:
                save(batch)
                batch, unsaved = [], 0
            if progress is not None:
                progress(Step(done, len(files), size, sum(f.bytes for f in files), file.path))
    finally:
        if batch:
            save(batch)
    return Encoded(done, len(files), passages)


def nearest(queries: Queries, question: QuestionVector) -> list[tuple[Place, float]]:
    """The passages nearest to a question, with the cosine of the angle between, best first."""
    import numpy as np

    rows = queries.vectors(question.model, len(question.values))
    if not rows:
        return []
    stored = np.frombuffer(b"".join(vectors for _, _, vectors in rows), dtype=np.float16)
    matrix = stored.reshape(-1, len(question.values)).astype(np.float32)
    cosines = matrix @ np.asarray(question.values, dtype=np.float32)
    best = np.argsort(-cosines, kind="stable")[:_NEAREST]
    ends = np.cumsum([len(chunks) for _, chunks, _ in rows])
    found: list[tuple[Place, float]] = []
    for number, row in zip(best.tolist(), np.searchsorted(ends, best, side="right").tolist(), strict=True):
        path, chunks, _ = rows[row]
        chunk = chunks[number - int(ends[row])]  # from the end: negative
        found.append(((path, chunk.start_line, chunk.end_line), float(cosines[number])))
    return found


def _texts(queries: Queries, read_lines: ReadLines, path: str) -> Iterator[str]:
    """What stands for each passage of a file: its path, its name with its scope, its lines."""
    lines = read_lines(path)
    scopes = {(s.start_line, s.name): s.scope for s in queries.symbols_in(path)}
    for start, end, name in queries.chunks_in(path):
        scope = scopes.get((start, name), "")
        qualified = f"{scope}.{name}" if scope else name
        yield "\n".join([path, qualified, *lines[start - 1 : end]])[:_LONGEST]


def _encoded(texts: Sequence[str], encode: Encode, cancelled: Callable[[], bool]) -> bytes | None:
    """Half-precision vectors, one after the other; None where the work was cancelled."""
    import numpy as np

    parts: list[bytes] = []
    for first in range(0, len(texts), _AT_ONCE):
        if cancelled():
            return None
        parts.append(encode(texts[first : first + _AT_ONCE]).astype(np.float16).tobytes())
    return b"".join(parts)
