"""Between the protocol's types and ours: URIs and paths, suggestions and inline completion items.

Positions are `positions`' part; nothing here asks the model or the index.
"""

from pathlib import Path, PurePosixPath

from lsprotocol import types
from pygls.uris import to_fs_path, urlparse

from codellama_lsp.documents import Document
from codellama_lsp.positions import Encoding

_SUFFIX = {
    "python": ".py",
    "javascript": ".js",
    "javascriptreact": ".jsx",
    "typescript": ".ts",
    "typescriptreact": ".tsx",
    "go": ".go",
    "rust": ".rs",
}


def path_of(uri: str) -> Path | None:
    """The file a URI names, or None for what is no file (an unsaved or a virtual document)."""
    path = to_fs_path(uri)
    return Path(path) if path else None


def file_name(document: Document) -> str:
    """A name for a document that stands in no repository: its own, with its language's suffix.

    The model and the filters tell the language by the suffix, which an untitled document lacks.
    """
    name = PurePosixPath(urlparse(document.uri)[2].replace("\\", "/")).name or "untitled"
    suffix = _SUFFIX.get(document.language_id, "")
    return name if PurePosixPath(name).suffix else name + suffix


def encoding(negotiated: str | None) -> Encoding:
    """What a position counts in; UTF-16 is the protocol's default."""
    known: dict[str | None, Encoding] = {"utf-8": "utf-8", "utf-32": "utf-32"}
    return known.get(negotiated, "utf-16")


def inline_items(text: str, position: types.Position) -> list[types.InlineCompletionItem]:
    """A suggestion as the items of an answer; an empty text is an empty list.

    The range says outright that nothing is replaced: without it some editors replace the word
    before the cursor.
    """
    if not text:
        return []
    here = types.Range(start=position, end=position)
    return [types.InlineCompletionItem(insert_text=text, range=here)]


def trigger_kind(value: object, _: type) -> types.InlineCompletionTriggerKind:
    """Any trigger kind a client may send: some send 0 and 1 where the protocol has 1 and 2."""
    if value in (0, types.InlineCompletionTriggerKind.Invoked.value):
        return types.InlineCompletionTriggerKind.Invoked
    return types.InlineCompletionTriggerKind.Automatic


def menu(text: str, position: types.Position, word: str) -> types.CompletionList:
    """A suggestion as the one entry of a completion menu; the list is asked for again with each key.

    `word` is the (ASCII) word before the cursor, by which clients filter their menu.
    """
    if not text:
        return types.CompletionList(is_incomplete=True, items=[])
    start = types.Position(position.line, position.character - len(word))
    item = types.CompletionItem(
        label=text.strip().split("\n", 1)[0][:80] + (" …" if "\n" in text.strip() else ""),
        kind=types.CompletionItemKind.Snippet if "\n" in text else types.CompletionItemKind.Text,
        detail="codellama",
        documentation=text if "\n" in text else None,
        filter_text=word + text,
        sort_text="\uffff",
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(range=types.Range(start=start, end=position), new_text=word + text),
    )
    return types.CompletionList(is_incomplete=True, items=[item])
