"""From a model's name to the folder or file that holds it. Free of torch.

A name is `pocket` (the model inside this package), a folder on disk as Hugging Face or Meta lays them out,
or a .gguf file.
"""

from pathlib import Path

from codellama.runtime.errors import UnknownModel

POCKET = "pocket"


def locate(name: str) -> Path:
    """The folder or file of the model `name`; raises UnknownModel where there is none."""
    if name == POCKET:
        return Path(__file__).resolve().parent.parent / "pocket"
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
    raise UnknownModel(
        f"There is no model {name!r}: name a folder with a Llama checkpoint, a .gguf file, or 'pocket', the "
        "model that comes with codellama."
    )
