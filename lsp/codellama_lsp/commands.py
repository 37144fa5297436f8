"""`workspace/executeCommand` and code actions: what a person asks for by name.

Arguments come as one object; what is missing or wrong in it is told in one sentence, as an error of the
request. Answers of a model are streamed as `$/progress` where the client names a token.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams

from codellama.runtime.errors import CodellamaError, InvalidRequest
from codellama_index.errors import CodeIndexError
from codellama_lsp import actions, completion, convert
from codellama_lsp.documents import Document
from codellama_lsp.engine import serve_settings
from codellama_lsp.jobs import apart
from codellama_lsp.progress import Progress
from codellama_lsp.session import Server

if TYPE_CHECKING:
    from codellama.assist.edit import Passage
    from codellama.serve.client import ModelClient
    from codellama_index import Index

_SCOPES = ("everywhere", "workspace", "language")
_FAILED = -32803  # the protocol's RequestFailed: nothing is wrong with the request itself


def register(server: Server) -> None:
    """Offer the commands and the code actions."""
    for name, handler in _COMMANDS.items():
        server.command(f"codellama.{name}")(_told(handler))
    kinds = [types.CodeActionKind.QuickFix, types.CodeActionKind.RefactorRewrite]
    options = types.CodeActionOptions(code_action_kinds=kinds, resolve_provider=True)
    server.feature(types.TEXT_DOCUMENT_CODE_ACTION, options)(code_action)
    server.feature(types.CODE_ACTION_RESOLVE)(resolve)


def code_action(server: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
    """What a model could do here; the work is done when one is chosen."""
    document = server.documents.get(params.text_document.uri)
    if document is None:
        return []
    client = server.client_capabilities.text_document
    ours = client.code_action if client else None
    may_disable = bool(ours and ours.disabled_support)
    missing = "" if server.settings.chat.model else _no_model()
    found = actions.offered(document.uri, params.range, params.context, missing, may_disable)
    for action in found:
        if action.data:
            action.data["version"] = document.version  # what its lines were counted in
    return found


async def resolve(server: Server, action: types.CodeAction) -> types.CodeAction:
    """The edit of a chosen code action; where there is none, the person is told why."""
    try:
        if isinstance(action.data, dict):
            action.edit = await _edit(server, action.data["task"], action.data)
    except (CodellamaError, CodeIndexError) as error:
        server.show(str(error))
    except (KeyError, TypeError, ValueError) as error:
        raise JsonRpcInvalidParams(f"The code action's data is not ours: {error}.") from error
    return action


async def _why(server: Server, _: dict[str, Any]) -> object:
    last = server.suggester.last
    return last.payload() if last else None


async def _toggle(server: Server, argument: dict[str, Any]) -> object:
    scope = argument.get("scope", "everywhere")
    if scope not in _SCOPES:
        raise InvalidRequest(f"scope is {scope!r}: give one of {', '.join(_SCOPES)}.")
    name = ""
    if scope == "language":
        name = argument.get("language") or _document(server, argument).language_id
    elif scope == "workspace":
        found = server.folders.find(convert.path_of(_document(server, argument).uri))
        name = str(found[0].root) if found else ""
    on = server.switch.toggle(server.settings.completion, scope, name)
    server.suggester.cancel_all()
    server.switched()
    return {"scope": scope, "name": name, "on": on}


async def _snooze(server: Server, argument: dict[str, Any]) -> object:
    minutes = argument.get("minutes", 30)
    if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not 0 <= minutes <= 1440:
        raise InvalidRequest(f"minutes is {minutes!r}: give a number from 0 to 1440.")
    server.switch.snooze(time.monotonic() + 60 * minutes)
    server.suggester.cancel_all()
    server.switched()
    asyncio.get_running_loop().call_later(60 * minutes + 0.05, server.switched)
    return {"minutes": minutes}


async def _reindex(server: Server, _: dict[str, Any]) -> object:
    return {"repositories": await server.folders.reindex()}


async def _ask(server: Server, argument: dict[str, Any]) -> object:
    from codellama.assist.answer import answer

    question = argument.get("question")
    if not isinstance(question, str) or not question.strip():
        raise InvalidRequest("question is empty: ask something, such as 'where is X decided?'.")
    index = _asked_about(server, argument.get("uri"))
    on_text = _streaming(server, argument)

    async def work() -> object:
        from codellama.serve.client import ModelClient

        model, room = server.settings.chat.model, server.settings.chat.max_context
        client = ModelClient(serve_settings(server.settings, model)) if model else None
        try:
            return asdict(await answer(question, index, client, max_context=room, on_text=on_text))
        finally:
            if client is not None:
                await client.aclose()

    return await apart(work)


def _asked_about(server: Server, uri: object) -> "Index":
    """The repository of a document, else of the one touched last, else the first; raises InvalidRequest."""
    uris = [uri] if isinstance(uri, str) else []
    for each in (*uris, *(document.uri for document in server.documents)):
        if found := server.folders.find(convert.path_of(each)):
            return found[0]
    indexes = server.folders.indexes()
    if not indexes:
        raise InvalidRequest("No folder is indexed: open a project's folder and ask again.")
    return indexes[0]


async def _explain(server: Server, argument: dict[str, Any]) -> object:
    from codellama.assist import edit

    passage = await asyncio.to_thread(_passage, server, _document(server, argument), argument)
    on_text = _streaming(server, argument)

    async def ask(client: "ModelClient") -> str:
        return await edit.explain(client, passage, on_text)

    text = await _with_model(server, "Explaining", ask)
    if argument.get("show"):
        server.show(text, types.MessageType.Info)
    return {
        "text": text,
        "path": passage.path,
        "start_line": passage.start_line,
        "end_line": passage.end_line,
    }


def _changing(task: actions.Task) -> Callable[[Server, dict[str, Any]], Awaitable[object]]:
    """The command of a task: makes the edit, and hands it to the client to be applied."""

    async def run(server: Server, argument: dict[str, Any]) -> object:
        edit = await _edit(server, task, argument)
        plain = server.protocol._converter.unstructure(edit)
        workspace = server.client_capabilities.workspace
        if argument.get("preview") or not (workspace and workspace.apply_edit):
            return {"applied": False, "edit": plain}
        params = types.ApplyWorkspaceEditParams(edit, actions.TITLES[task])
        done = await server.workspace_apply_edit_async(params)
        return {"applied": done.applied, "edit": plain}

    return run


async def _edit(server: Server, task: actions.Task, argument: dict[str, Any]) -> types.WorkspaceEdit:
    document = _document(server, argument)
    instruction, problems = _told_to(task, argument)
    if argument.get("version", document.version) != document.version:
        raise InvalidRequest("The document was changed since this was offered: ask for code actions again.")
    passage = await asyncio.to_thread(_passage, server, document, argument)
    file = convert.path_of(document.uri)
    found = server.folders.find(file)
    if task == "tests" and file is None:
        raise InvalidRequest("This document is no file yet, so its tests have no place: save it first.")
    root = found[0].root if found else Path(file or "/").parent
    target = None if task == "tests" else document  # the open document that is edited

    def existing(path: str) -> str | None:
        nonlocal target
        opened = (each for each in server.documents if convert.path_of(each.uri) == root / path)
        target = next(opened, None)
        return target.text if target else _read(root / path)

    async def ask(client: "ModelClient") -> actions.Change:
        return await actions.change(client, task, passage, instruction, problems, existing)

    change = await _with_model(server, actions.TITLES[task], ask)
    capabilities = server.client_capabilities.workspace
    editing = capabilities.workspace_edit if capabilities else None
    if change.creates and not actions.may_create(editing):
        raise InvalidRequest(f"{change.path} does not exist and this editor cannot make it: create it first.")
    uri, version = (root / change.path).as_uri(), None
    if target is not None:
        now = server.documents.get(target.uri)
        if now is None or now.text != target.text:
            raise InvalidRequest(f"{change.path} was changed while the model was at it: ask again.")
        uri, version = now.uri, now.version
    return actions.workspace_edit(change, uri, version, actions.TITLES[task], editing)


def _told_to(task: actions.Task, argument: dict[str, Any]) -> tuple[str, list[str]]:
    """The instruction and the problems; raises InvalidRequest where the task lacks its own."""
    if task not in actions.TITLES:
        raise InvalidRequest(f"There is no task {task!r}: choose one of {', '.join(actions.TITLES)}.")
    instruction, problems = argument.get("instruction", ""), argument.get("problems") or []
    if task == "edit" and not (isinstance(instruction, str) and instruction.strip()):
        raise InvalidRequest("instruction is empty: say what is to be done with the lines.")
    if task == "fix" and not (problems and all(isinstance(each, str) for each in problems)):
        raise InvalidRequest("problems is empty: give the diagnostics' messages.")
    return instruction, problems


def _read(path: Path) -> str | None:
    """A file's text, None where there is none; raises InvalidRequest where nothing can be added to it."""
    try:
        if not path.exists():
            return None
        if path.is_file() and path.stat().st_size <= completion.LARGEST:  # a pipe would be waited for
            return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read ({error}): mend or remove it.") from error
    raise InvalidRequest(f"{path} is no file of up to {completion.LARGEST} bytes: move it away.")


async def _with_model(server: Server, title: str, ask: "Callable[[ModelClient], Awaitable[Any]]") -> Any:
    """The answer of the instruct model, with a progress bar; raises InvalidRequest where there is none."""
    from codellama.serve.client import ModelClient

    model = server.settings.chat.model
    if not model:
        raise InvalidRequest(_no_model())
    bar = Progress(server, title)
    server.background.start(bar.open())
    try:
        async with ModelClient(serve_settings(server.settings, model)) as client:
            return await ask(client)
    finally:
        bar.close("done")


def _passage(server: Server, document: Document, argument: dict[str, Any]) -> "Passage":
    span = argument.get("range") or {}
    try:
        start, end = int(span["start"]["line"]), int(span["end"]["line"])
        character = int(span["end"]["character"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest("range is no range of the protocol: give start and end.") from error
    last = document.text.count("\n")
    if end > start and character == 0:  # whole lines were selected
        end -= 1
    start, end = max(0, min(start, last)), max(0, min(end, last))
    found = server.folders.find(convert.path_of(document.uri))
    path = found[1] if found else convert.file_name(document)
    return actions.passage_at(path, document.text, min(start, end), max(start, end))


def _document(server: Server, argument: dict[str, Any]) -> Document:
    uri = argument.get("uri")
    document = server.documents.get(uri) if isinstance(uri, str) else None
    if document is None:
        raise InvalidRequest(f"{uri!r} is not open: give the uri of an open document.")
    return document


def _streaming(server: Server, argument: dict[str, Any]) -> Callable[[str], None]:
    """Sends pieces of text to the client's token; may be called from any thread."""
    token = argument.get("partialResultToken")
    if not isinstance(token, (str, int)):
        return lambda _: None
    loop = asyncio.get_running_loop()

    def send(text: str) -> None:
        if text:
            value = types.ProgressParams(token, {"text": text})
            loop.call_soon_threadsafe(server.protocol.notify, types.PROGRESS, value)

    return send


def _no_model() -> str:
    from codellama.assist.edit import NO_MODEL

    return NO_MODEL


def _told(handler: Callable[[Server, dict[str, Any]], Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """A command's handler, whose errors become errors of the request that say what to do."""

    async def command(server: Server, *arguments: Any) -> object:
        argument = arguments[0] if arguments else {}
        if not isinstance(argument, dict):
            raise JsonRpcInvalidParams("A command's argument is one object.")
        try:
            return await handler(server, argument)
        except InvalidRequest as error:
            raise JsonRpcInvalidParams(str(error)) from error
        except (CodellamaError, CodeIndexError) as error:
            raise JsonRpcException(str(error), _FAILED) from error

    return command


_COMMANDS: dict[str, Callable[[Server, dict[str, Any]], Awaitable[object]]] = {
    "ask": _ask,
    "explain": _explain,
    "fix": _changing("fix"),
    "document": _changing("document"),
    "tests": _changing("tests"),
    "edit": _changing("edit"),
    "why": _why,
    "reindex": _reindex,
    "toggle": _toggle,
    "snooze": _snooze,
}
