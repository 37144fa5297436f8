"""`codellama index`: builds the index and asks it directly."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codellama_cli.ask import Json, Repo

if TYPE_CHECKING:
    from codellama_index.records import SyncReport

index = typer.Typer(no_args_is_help=True, help="Build a repository's index and ask it directly.")

Folder = Annotated[Path | None, typer.Argument(help="The repository; default: the one around here.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]


@index.command()
def build(path: Folder = None, json: Json = False) -> None:
    """Build the index, or bring it up to date; with embeddings.model set, encode its passages as well.

    Either goes on where it was stopped.

    Example: codellama index build ~/src/service
    """
    from codellama_cli import output, repository

    with repository.open_repository(path) as opened:
        with output.progress("indexing") as move:
            report = opened.sync(progress=move)
        meaning = repository.meaning_for(repository.settings_for(opened.root))
        if meaning is not None:
            with meaning.blocking() as model, output.progress("encoding") as move:
                opened.encode(model.name, model.encode, move)
    _show_report(report, json)


@index.command()
def status(
    path: Folder = None,
    skipped: Annotated[bool, typer.Option("--skipped", help="List every file that was left out.")] = False,
    json: Json = False,
) -> None:
    """Tell what the index holds, what was left out and why, and the room that indexes take.

    Example: codellama index status --json
    """
    from codellama_cli import output, repository
    from codellama_index.place import usages

    with repository.open_repository(path) as opened:
        report = opened.status()
        own, notes = opened.place.usage(), opened.notes()
        everything = usages(opened.place.folder.parent)
        limit = opened.max_bytes
    total = sum(usage.bytes for usage in everything)
    if json:
        room = {"index_bytes": own.bytes, "all_bytes": total, "indexes": len(everything), "max_bytes": limit}
        output.print_json(asdict(report) | room | {"folder": str(own.folder), "notes": notes})
        return
    if not report.complete:
        output.print_text("The index is not complete: run codellama index build.")
    output.print_text(f"{_counted(report.files, 'file')}, {_held(report)}")
    _show_skipped(report, every=skipped)
    output.print_text(
        f"{own.bytes / 1e6:.1f} MB in {own.folder}\n"
        f"{total / 1e6:.1f} MB in all {len(everything)} indexes, of {limit / 1e6:.0f} MB (index.max_bytes)"
    )
    for note in notes:
        output.print_text(note)


@index.command()
def drop(
    path: Folder = None,
    every: Annotated[bool, typer.Option("--all", help="Delete the indexes of all repositories.")] = False,
    json: Json = False,
) -> None:
    """Delete the repository's index; the next question builds it again.

    Example: codellama index drop
    """
    from codellama_cli import output, repository

    if every:
        from codellama_index import place

        cache = place.cache_folder()
        before = place.usages(cache)
        dropped = [usage for usage in before if place.drop(usage.folder)]
        freed = sum(usage.bytes for usage in dropped)
        if len(dropped) < len(before):
            output.warn(f"{len(before) - len(dropped)} of them are being written now and stay.")
    else:
        with repository.open_repository(path) as opened:
            freed = opened.drop()
    if json:
        output.print_json({"bytes": freed})
    else:
        output.print_text(f"dropped, {freed / 1e6:.1f} MB freed")


@index.command()
def symbols(
    query: Annotated[str | None, typer.Argument(help="A name or a part of one; default: all.")] = None,
    repo: Repo = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Find definitions by name; without a name, list all of them.

    Example: codellama index symbols load_engine
    """
    from codellama_cli import output, repository

    with repository.open_repository(repo) as opened:
        found = repository.refreshed(opened).symbols(query, limit=limit)
    _note_length(len(found), limit if query is not None else None)
    rows = [
        {"path": s.path, "line": s.line, "end_line": s.end_line, "name": s.name, "kind": s.kind}
        | {"score": round(1 / (n + 1), 4), "scope": s.scope, "signature": s.signature}
        for n, s in enumerate(found)
    ]
    if json:
        output.print_json(rows)
        return
    for symbol in found:
        scope = f"{symbol.scope}." if symbol.scope else ""
        output.print_text(f"{symbol.path}:{symbol.line}  {symbol.kind} {scope}{symbol.name}")


@index.command()
def refs(
    query: Annotated[str, typer.Argument(help="A name.")],
    repo: Repo = None,
    limit: Limit = 200,
    json: Json = False,
) -> None:
    """Find the uses of a name.

    Example: codellama index refs load_engine
    """
    from codellama_cli import output, repository

    with repository.open_repository(repo) as opened:
        found = repository.refreshed(opened).references(query, limit=limit)
    _note_length(len(found), limit)
    if json:
        output.print_json(
            [
                {"path": r.path, "line": r.line, "end_line": r.line, "name": r.name}
                | {"kind": "reference", "score": 1.0, "text": r.text}
                for r in found
            ]
        )
        return
    for reference in found:
        output.print_text(f"{reference.path}:{reference.line}  {reference.text}")


@index.command()
def search(
    query: Annotated[str, typer.Argument(help="Words.")],
    repo: Repo = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Find text and symbols by relevance.

    Example: codellama index search "retry delay"
    """
    from codellama_cli import output, repository

    with repository.open_repository(repo) as opened:
        found = repository.refreshed(opened).search(query, limit=limit)
    _note_length(len(found), limit)
    if json:
        output.print_json(
            [
                {"path": h.path, "line": h.start_line, "end_line": h.end_line, "score": h.score}
                | {"name": h.symbol.name if h.symbol else "", "kind": h.symbol.kind if h.symbol else "text"}
                for h in found
            ]
        )
        return
    for hit in found:
        name = f"  {hit.symbol.kind} {hit.symbol.name}" if hit.symbol else ""
        output.print_text(f"{hit.path}:{hit.start_line}-{hit.end_line}{name}")


@index.command(name="map")
def map_(
    repo: Repo = None,
    tokens: Annotated[int, typer.Option(min=64, help="At most about so many tokens.")] = 1024,
    json: Json = False,
) -> None:
    """Print the repository's most central files with their outlines.

    Example: codellama index map --tokens 2000
    """
    from codellama_cli import output, repository

    with repository.open_repository(repo) as opened:
        entries = repository.refreshed(opened).map(tokens)
    if json:
        output.print_json(entries)
        return
    for entry in entries:
        output.print_text(entry.path)
        for symbol in entry.symbols:
            depth = 1 + symbol.scope.count(".") + bool(symbol.scope)
            output.print_text(f"{'  ' * depth}{symbol.signature}")


def _note_length(found: int, limit: int | None) -> None:
    """Says on stderr that nothing was found, or that there may be more."""
    from codellama_cli import output

    if not found:
        output.note("Nothing was found: names are found by their parts, other text by its words.")
    elif found == limit:
        output.note(f"These are the first {limit}: --limit takes more.")


def _show_report(report: "SyncReport", json: bool) -> None:
    from codellama_cli import output

    if json:
        output.print_json(asdict(report))
        return
    output.print_text(
        f"{_counted(report.files, 'file')}, {report.indexed} parsed anew, {_held(report)}, "
        f"{report.seconds:.2f} s"
    )
    _show_skipped(report)


def _held(report: "SyncReport") -> str:
    return f"{_counted(report.symbols, 'symbol')}, {report.bytes / 1e6:.1f} MB of source"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _show_skipped(report: "SyncReport", every: bool = False) -> None:
    from codellama_cli import output

    if every:
        for skipped in report.skipped:
            output.print_text(f"  left out: {skipped.path} ({skipped.reason})")
        return
    for reason, count in Counter(skipped.reason for skipped in report.skipped).most_common():
        output.print_text(f"  left out: {_counted(count, 'file')} ({reason})")
