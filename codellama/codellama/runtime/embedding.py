"""An embedding model: texts to vectors whose angles tell how alike they mean. Through sentence-transformers.

The package is an optional extra and is imported when the first model is loaded. Nothing is downloaded: a hub
id is looked for among what the user has fetched already.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.runtime.errors import CheckpointError, InvalidRequest, UnknownModel
from codellama.runtime.locate import is_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 16


class EmbeddingModel:
    """A loaded model; threads take turns."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        """Loads the folder or hub id `name` onto a device.

        Raises InvalidRequest, UnknownModel or CheckpointError.
        """
        folder = Path(name).expanduser()
        if not is_path(name) and folder.exists():  # the package would take it for the model of that name
            raise UnknownModel(
                f"The embedding model {name!r} is not read from the folder of that name here: write ./{name}."
            )
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise InvalidRequest(
                "Embedding models need another package: pip install 'codellama[embeddings]', or unset "
                "embeddings.model."
            ) from error
        if folder.is_dir() and not (folder / "modules.json").is_file():
            raise UnknownModel(
                f"The folder {name} holds no modules.json, so it is no model of sentence-transformers: name "
                "another one in embeddings.model."
            )
        try:
            self._model = SentenceTransformer(
                str(folder) if folder.is_dir() else name,
                device=device,
                local_files_only=True,
                trust_remote_code=False,
            )
        except Exception as error:  # its errors are of many kinds, and all mean that there is no such model
            if folder.is_dir():
                raise CheckpointError(f"The embedding model {name} cannot be loaded ({error}).") from error
            raise UnknownModel(
                f"There is no embedding model {name!r} on this machine: name a folder of "
                f"sentence-transformers, or fetch it with `hf download {name}`."
            ) from error
        self._turn = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What the weights take."""
        return sum(part.nbytes for part in self._model.state_dict().values())

    def encode(
        self, texts: Sequence[str], question: bool = False, cancelled: Callable[[], bool] = lambda: False
    ) -> "NDArray[np.float32]":
        """[texts, dimensions], each of length 1; some models are told which texts are questions.

        Fewer rows once `cancelled`, asked before every batch.
        """
        import numpy as np

        encode = self._model.encode_query if question else self._model.encode_document
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]), reverse=True)  # a batch is padded
        rows: dict[int, NDArray[np.float32]] = {}
        with self._turn:
            for first in range(0, len(order), _BATCH):
                if cancelled():
                    break
                batch = order[first : first + _BATCH]
                vectors = encode(
                    [texts[n] for n in batch],
                    batch_size=_BATCH,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
                rows |= zip(batch, vectors, strict=True)
        return np.array([rows[n] for n in sorted(rows)], dtype=np.float32)
