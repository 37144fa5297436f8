"""From a model's name to the folder that holds it. Free of torch.

A name is `pocket` (the model inside this package) or a Hugging Face folder on disk.
"""

from pathlib import Path

from codellama.runtime.errors import UnknownModel

POCKET = "pocket"


def locate(name: str) -> Path:
    """The folder of the model `name`; raises UnknownModel where there is none."""
    if name == POCKET:
        return Path(__file__).resolve().parent.parent / "pocket"
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise UnknownModel(
            f"The folder {name} holds no config.json, so it is no model folder: name one that has "
            "config.json, the .safetensors files and tokenizer.model, or 'pocket'."
        )
    raise UnknownModel(
        f"There is no model {name!r}: name a folder with a Llama checkpoint, or 'pocket', the model "
        "that comes with codellama."
    )
