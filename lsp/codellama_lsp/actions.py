"""What an instruct model does with the code at a place, as edits that an editor can preview.

Pure but for the model: a document's text and a range in, lines and edits out. Who asked, and how the edit
reaches the editor, is the commands' part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lsprotocol import types

if TYPE_CHECKING:
    from codellama.assist.edit import Passage
    from codellama.serve.client import ModelClient

Task = Literal["fix", "document", "tests", "edit"]

TITLES: dict[Task, str] = {
    "fix": "Correct with codellama",
    "document": "Write documentation with codellama",
    "tests": "Write tests with codellama",
    "edit": "Edit with codellama",
}


@dataclass(frozen=True, slots=True)
class Change:
    """New text for lines of a file (0-based, `end` excluded), or a new file where `creates`."""

    path: str
    start: int
    end: int
    text: str
    creates: bool = False


def passage_at(path: str, text: str, start: int, end: int) -> "Passage":
    """The lines of a selection (0-based, inclusive), or the whole definition around an empty one."""
    from codellama.assist.edit import Passage
    from codellama_index.extract import extract

    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if start == end:
        line = start + 1
        around = [
            symbol
            for symbol in extract(path, text).symbols
            if symbol.start_line <= line <= symbol.end_line
            and symbol.kind in ("function", "method", "class", "interface", "enum", "type", "macro")
        ]
        if around:
            inner = max(around, key=lambda symbol: symbol.start_line)
            return Passage(path, text, inner.start_line, inner.end_line)
    return Passage(path, text, start + 1, end + 1)


async def change(
    client: "ModelClient",
    task: Task,
    passage: "Passage",
    instruction: str,
    problems: Sequence[str],
    existing: Callable[[str], str | None],
) -> Change:
    """What the model would do; raises CodellamaError. `existing` tells a file's text, None for no file."""
    from codellama.assist import edit

    first, behind = passage.start_line - 1, passage.end_line
    if task == "tests":
        path = edit.test_path(passage.path)
        code = await edit.tests(client, passage)
        old = existing(path)
        return Change(path, 0, 0, code, creates=True) if old is None else _appended(path, old, code)
    if task == "fix":
        code = await edit.fix(client, passage, problems)
    elif task == "document":
        code = await edit.document(client, passage)
    else:
        code = await edit.rewrite(client, passage, instruction)
    return Change(passage.path, first, behind, code)


def _appended(path: str, old: str, code: str) -> Change:
    """Code behind all that a file holds; raises InvalidRequest where they do not go together."""
    from codellama.assist import syntax
    from codellama.runtime.errors import InvalidRequest

    lines = old.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    last = lines.pop()  # what stands behind the last line break, mostly nothing
    text = (f"{last}\n" if last else "") + ("\n\n" if last or lines else "") + code
    if syntax.breaks(path, "", "\n".join([*lines, text])):
        raise InvalidRequest(
            f"{path} and the model's tests behind it are no valid code: mend it, or ask again."
        )
    return Change(path, len(lines), len(lines) + bool(last), text)


def workspace_edit(
    found: Change,
    uri: str,
    version: int | None,
    title: str,
    capabilities: types.WorkspaceEditClientCapabilities | None,
) -> types.WorkspaceEdit:
    """A change as the client takes it: to be confirmed before it is made, where the client can ask.

    `version` is the open document's that it was made for; a client that knows versions refuses another.
    """
    whole = types.Range(types.Position(found.start, 0), types.Position(found.end, 0))
    text = found.text if found.text.endswith("\n") else found.text + "\n"
    edit = types.TextEdit(whole, text)
    if capabilities is None or not capabilities.document_changes:
        return types.WorkspaceEdit(changes={uri: [edit]})
    annotated = capabilities.change_annotation_support is not None
    edits = [types.AnnotatedTextEdit("codellama", whole, text) if annotated else edit]
    document = types.OptionalVersionedTextDocumentIdentifier(uri, version)
    steps: list[types.TextDocumentEdit | types.CreateFile | types.RenameFile | types.DeleteFile] = []
    if found.creates:
        steps.append(types.CreateFile(uri, options=types.CreateFileOptions(ignore_if_exists=True)))
    steps.append(types.TextDocumentEdit(document, edits))
    notes = {"codellama": types.ChangeAnnotation(title, needs_confirmation=True)} if annotated else None
    return types.WorkspaceEdit(document_changes=steps, change_annotations=notes)


def may_create(capabilities: types.WorkspaceEditClientCapabilities | None) -> bool:
    """Whether the client can make a new file for an edit."""
    kinds = (capabilities.resource_operations or ()) if capabilities else ()
    return types.ResourceOperationKind.Create in kinds


def offered(
    uri: str, span: types.Range, context: types.CodeActionContext, missing: str, may_disable: bool
) -> list[types.CodeAction]:
    """The code actions at a range; `missing` says what they lack, and they are greyed out or left away."""
    if missing and not may_disable:
        return []
    where = {"uri": uri, "range": {"start": _place(span.start), "end": _place(span.end)}}
    problems = [diagnostic.message for diagnostic in context.diagnostics]
    rows: list[tuple[str, str, Task | None]] = [
        ("Explain with codellama", "", None),
        (TITLES["document"], types.CodeActionKind.RefactorRewrite.value, "document"),
        (TITLES["tests"], types.CodeActionKind.RefactorRewrite.value, "tests"),
    ]
    if problems:
        rows.insert(0, (TITLES["fix"], types.CodeActionKind.QuickFix.value, "fix"))
    found = []
    for title, kind, task in rows:
        if context.only and not any(kind == only or kind.startswith(f"{only}.") for only in context.only):
            continue
        action = types.CodeAction(title, kind=kind or None)
        if missing:
            action.disabled = types.CodeActionDisabled(missing)
        elif task is None:
            action.command = types.Command(title, "codellama.explain", arguments=[where | {"show": True}])
        else:
            action.data = where | {"task": task, "problems": problems}
            if task == "fix":
                action.diagnostics = context.diagnostics
        found.append(action)
    return found


def _place(position: types.Position) -> dict[str, int]:
    return {"line": position.line, "character": position.character}
