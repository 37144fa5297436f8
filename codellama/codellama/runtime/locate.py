"""From a model's name to the folder or file that holds it. Free of torch.

A name is `pocket` (the model inside this package), a folder on disk as Hugging Face or Meta lays them out,
a .gguf file, or OWNER/NAME of a model that was pulled from the hub. What the current folder holds never
stands in for the last: a folder there is named with ./ before it.
"""

import os
from pathlib import Path

from codellama.runtime.errors import UnknownModel

POCKET = "pocket"
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")


def is_path(name: str) -> bool:
    """Whether a name is a path: it is absolute, begins with a dot or ~, or ends in .gguf."""
    return name.startswith((".", "~")) or name.endswith(".gguf") or Path(name).is_absolute()


def independent(name: str) -> str:
    """The same name, where it is a path made absolute: for processes that have another current folder."""
    return str(Path(name).expanduser().absolute()) if is_path(name) else name


def locate(name: str) -> Path:
    """The folder or file of the model `name`; raises UnknownModel where there is none."""
    if name == POCKET:
        return Path(__file__).resolve().parent.parent / "pocket"
    if not is_path(name):
        return _fetched(name)
    path = Path(name).expanduser()
    if any((path / description).is_file() for description in ("config.json", "params.json")):
        return path.resolve()
    if path.is_file() and path.suffix == ".gguf":
        return path.resolve()
    if path.is_dir():
        raise UnknownModel(
            f"The folder {name} holds neither config.json (Hugging Face) nor params.json (Meta), so it is "
            "no model folder: name one that holds the weights and the tokenizer, a .gguf file, or 'pocket'."
        )
    raise _unknown(name)


def _fetched(name: str) -> Path:
    """The model of that name in the hub's cache; raises UnknownModel."""
    if (fetched := pulled(name)) is not None:
        return fetched
    if name and Path(name).is_dir():
        raise UnknownModel(
            f"There is no model {name!r} among those that were pulled: for the folder of that name here, "
            f"write ./{name}."
        )
    raise _unknown(name)


def _unknown(name: str) -> UnknownModel:
    return UnknownModel(
        f"There is no model {name!r}: name a folder with a Llama checkpoint, a .gguf file, a model that "
        "`codellama models pull` fetched, or 'pocket', which comes with codellama."
    )


def hub_cache() -> Path:
    """Where Hugging Face's own tools keep what they fetched."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"


def pulled(name: str) -> Path | None:
    """The newest snapshot of a model of the hub's cache, or its one .gguf file."""
    if name.count("/") != 1:
        return None
    snapshots = (hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").glob("*")
    for folder in sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True):
        ggufs = list(folder.rglob("*.gguf"))
        described = any((folder / name).is_file() for name in ("config.json", "params.json"))
        # Beside .gguf files a description may lie without the weights that it describes.
        if described and not (ggufs and not any(next(folder.glob(kind), None) for kind in _WEIGHTS)):
            return folder
        if len(ggufs) == 1:
            return ggufs[0]
    return None
