"""`codellama models`: which models there are, what they are, and from one format to another."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codellama_cli.ask import Json

if TYPE_CHECKING:
    from codellama.runtime.config import ModelConfig

models = typer.Typer(
    no_args_is_help=True, help="Models: which there are, what they are, and from format to format."
)


@dataclass(frozen=True, slots=True)
class Row:
    """A model as the list tells it; `path` is None where it is not on this machine."""

    name: str
    family: str
    parameters: int
    context: int
    infill: bool
    path: str | None


@models.command("list")
def list_(json: Json = False) -> None:
    """List the models on this machine, then those of the Llama family that are not.

    Example: codellama models list
    """
    from codellama.runtime.catalogue import known_models
    from codellama.runtime.identify import identify
    from codellama.runtime.inventory import local_models, missing
    from codellama_cli import output, repository

    folder = repository.settings_for(None).text("models.folder")
    local = list(local_models(Path(folder).expanduser().absolute() if folder else None, output.warn))
    known = known_models()
    rows = [_row(m.name, identify(m.config, m.name).family, m.config, m.infill, str(m.path)) for m in local]
    rows += [_row(m.name, m.family, m.shape, m.infill, None) for m in missing(known, local)]
    if json:
        output.print_json(rows)
        return
    for row in rows:
        infill, where = "infills" if row.infill else "", row.path or "not on this machine"
        output.print_text(f"{row.name:45} {_size(row.parameters):>7} {row.context:>9,} {infill:7} {where}")


@models.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A model: pocket, a folder or a .gguf file.")],
    json: Json = False,
) -> None:
    """Tell what a checkpoint is and needs, from its headers alone.

    Example: codellama models inspect ~/models/CodeLlama-7b-hf
    """
    from codellama.runtime.inspection import inspect as look
    from codellama.runtime.locate import locate
    from codellama_cli import output

    facts = look(locate(path), path)
    if json:
        output.print_json([facts])
        return
    dtypes = ", ".join(f"{dtype} ({_size(count)})" for dtype, count in facts.dtypes.items())
    tokenizer = (
        f"{facts.tokenizer.kind}, {facts.tokenizer.pieces:,} pieces" if facts.tokenizer else "none read"
    )
    output.print_text(f"{facts.name}: {facts.family}, {_size(facts.parameters)} weights")
    for label, value in {
        "path": facts.path,
        "may be": ", ".join(facts.published) or "no published model",
        "format": f"{facts.format}, {dtypes}",
        "context": f"{facts.context:,} tokens",
        "infill": facts.infill_trained,
        "tokenizer": f"{tokenizer}; the model embeds {facts.vocabulary:,}",
    }.items():
        output.print_text(f"  {label:9} {value}")
    for precision, memory in facts.memory.items():
        weights, cache = _bytes(memory.weights), _bytes(memory.cache)
        output.print_text(f"  {precision:9} {weights}, and {cache} of cache for the whole context")
    for note in facts.notes:
        output.warn(note)


@models.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A model: pocket, a folder or a .gguf file.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A name that ends in .gguf, or a folder to make.")
    ],
    type_: Annotated[
        str | None,
        typer.Option("--type", help="f32, f16, bf16; folders: int8; .gguf: q8_0, q4_0. Default: as SRC."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier model.")] = False,
    json: Json = False,
) -> None:
    """Convert a model between formats: Hugging Face folders and GGUF files, from those and Meta's.

    Example: codellama models convert pocket pocket.gguf --type q8_0
    """
    from codellama.runtime.locate import locate
    from codellama_cli import output

    path = locate(source)
    with output.bytes_progress("converting") as move:
        from codellama.runtime.weights.convert import convert as run

        written = run(path, destination.expanduser(), type_, force=force, progress=move)
    if json:
        output.print_json(written)
    else:
        output.print_text(f"{written.path}: {written.format}, {written.type}, {written.bytes / 1e6:,.1f} MB")


@models.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="OWNER/NAME on the Hugging Face hub.")],
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit. Default: the newest.")
    ] = None,
    file: Annotated[str | None, typer.Option(help="Which .gguf file, where there are several.")] = None,
    pickles: Annotated[
        bool, typer.Option("--pickles", help="Accept pickled weights where there are no others.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Fetch a model from the hub: tells licence and size, asks, resumes, checks.

    Example: codellama models pull codellama/CodeLlama-7b-hf
    """
    import sys

    from codellama.runtime.errors import InvalidRequest
    from codellama.runtime.locate import hub_cache
    from codellama.serve import download
    from codellama_cli import output

    wanted = download.plan(name, revision, file, pickles)
    terms = f"licence {wanted.license}" + (
        " (given to those who accepted its terms on the hub)" if wanted.gated else ""
    )
    output.note(
        f"{wanted.name}: {terms}; {_bytes(wanted.size)} in {len(wanted.files)} files ({wanted.weights}), "
        f"to {hub_cache()}"
    )
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidRequest("Nobody can be asked whether to fetch it: add --yes.")
        typer.confirm("Fetch it?", abort=True, err=True)
    with output.bytes_progress(f"fetching {wanted.name}") as move:
        path = download.pull(wanted, move)
    if json:
        output.print_json(
            {"name": wanted.name, "path": path, "bytes": wanted.size, "license": wanted.license}
        )
    else:
        known_by = (
            path if wanted.weights == "gguf" else wanted.name
        )  # there may be several files of that name
        output.print_text(f"{path}\nuse it: --model {known_by}, or completion.model in config.toml")


def _row(name: str, family: str, config: "ModelConfig", infill: str, path: str | None) -> Row:
    return Row(name, family, config.parameters, config.max_context, infill == "yes", path)


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
