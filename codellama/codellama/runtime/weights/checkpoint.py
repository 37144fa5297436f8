"""Opens a checkpoint of any format by its headers. Free of torch."""

from pathlib import Path

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights.gguf_checkpoint import GgufCheckpoint
from codellama.runtime.weights.hugging_face import HuggingFaceCheckpoint
from codellama.runtime.weights.meta import MetaCheckpoint
from codellama.runtime.weights.tensors import Checkpoint, TensorInfo

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`, a folder or a .gguf file; raises CheckpointError.

    Only headers are read: opening costs milliseconds whatever the size.
    """
    try:
        if (path / "config.json").is_file():
            return HuggingFaceCheckpoint(path)
        if (path / "params.json").is_file():
            return MetaCheckpoint(path)
        if path.is_file():
            return GgufCheckpoint(path)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error  # sizes that contradict each other
    raise CheckpointError(
        f"{path} holds no checkpoint: name a folder with config.json (Hugging Face) or params.json "
        "(Meta), or a .gguf file."
    )
