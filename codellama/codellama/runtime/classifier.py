"""A sequence classifier: texts to the probabilities of a checkpoint's own labels. Through transformers.

It serves guard models (Prompt Guard is a `DebertaV2ForSequenceClassification`) and any other head of that
kind, a Llama's included. Weights are read from safetensors alone, and nothing is downloaded.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from codellama.runtime.errors import CheckpointError, UnknownModel

# Tokens of a window, as guard models were trained, and how far two of them overlap.
_WINDOW, _OVERLAP = 512, 64


class Classifier:
    """A loaded model; threads take turns."""

    def __init__(self, name: str) -> None:
        """Loads the folder or hub id `name`; raises UnknownModel or CheckpointError."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(name).expanduser()
        place = str(folder) if folder.is_dir() else name
        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(place, **own)
            model, told = AutoModelForSequenceClassification.from_pretrained(
                place, use_safetensors=True, output_loading_info=True, **own
            )
        except Exception as error:  # its errors are of many kinds, and all mean that there is no such model
            if folder.is_dir():
                raise CheckpointError(
                    f"The classifier {name} cannot be loaded ({error}): fetch it again, as safetensors."
                ) from error
            raise UnknownModel(
                f"There is no classifier {name!r} on this machine: name a folder, or fetch it with "
                f"`hf download {name}`."
            ) from error
        if told["missing_keys"]:  # transformers would go on with random numbers
            raise CheckpointError(
                f"The classifier {name} has no {min(told['missing_keys'])}, so it is none: name another."
            )
        self._model = model.eval()
        self.labels: tuple[str, ...] = tuple(label for _, label in sorted(model.config.id2label.items()))
        self._turn = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What the weights take."""
        return sum(part.nbytes for part in self._model.state_dict().values())

    def scores(
        self, texts: Sequence[str], cancelled: Callable[[], bool] = lambda: False
    ) -> list[list[float]]:
        """[texts, labels], each row adding up to 1; fewer rows once `cancelled`, asked before every window.

        A text longer than a window is read in several that overlap. The one counts in which the first label
        is least likely: in guard models it is the harmless one, and an attack does not hide in a long text.
        """
        rows: list[list[float]] = []
        with self._turn:
            for text in texts:
                read: list[list[float]] = []
                for window in self._windows(text):
                    if cancelled():
                        return rows
                    read.append(self._of_window(window))
                rows.append(min(read, key=lambda scores: scores[0]))
        return rows

    def _windows(self, text: str) -> list[list[int]]:
        """The ids of each; one at least, which is empty for a text of nothing."""
        longest = getattr(self._model.config, "max_position_embeddings", None) or _WINDOW
        found: list[list[int]] = self._tokenizer(
            text,
            truncation=True,
            max_length=min(_WINDOW, longest),
            stride=_OVERLAP,
            return_overflowing_tokens=True,
        )["input_ids"]
        return found

    @torch.inference_mode()
    def _of_window(self, ids: list[int]) -> list[float]:
        rows = torch.tensor([ids or [self._model.config.pad_token_id or 0]])
        scores: list[float] = self._model(rows).logits[0].float().softmax(-1).tolist()
        return scores
