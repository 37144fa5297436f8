"""Conversations to ids, in the four formats of the family, and which of them a checkpoint has. Free of torch.

Where the format's tags are ids (Llama 3 and 4) text cannot pose as one, since it never becomes a control id.
Where they are text (Llama 2) text that holds them is refused, as the reference does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError, InvalidRequest
from codellama.runtime.records import ChatMessage
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.weights.gguf import read_header

# `turns` is Llama 3's and 4's, `inst` that of Llama 2 and Code Llama up to 34B, `source` Code Llama 70B's.
ChatFormat = Literal["turns", "inst", "source"]

_TAGS: dict[ChatFormat, tuple[str, ...]] = {
    "turns": (),
    "inst": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    "source": ("<step>",),
}
_ROLES = ("system", "user", "assistant")


def chat_format(path: Path, tokenizer: Tokenizer, config: ModelConfig) -> ChatFormat | None:
    """The format of the checkpoint at `path`, a folder or a .gguf file; None where it is not made to chat.

    Its chat template tells, of which only the tags are looked at; without one, a name with `instruct` or
    `chat` in it. A template with other tags than the family's is a format that is not known here.
    """
    template, names = read_template(path)
    turns, step = tokenizer.control.turns, tokenizer.control.step
    if template is None:
        if not any(word in name.lower() for name in names for word in ("instruct", "chat")):
            return None
        if turns:
            return "turns"
        return "source" if step is not None and config.n_layers == 80 else "inst"
    ids = tokenizer.control.names
    if turns and any(i == turns.start and name in template for name, i in ids.items()):
        return "turns"
    if step is not None and "Source:" in template:
        return "source"
    return "inst" if "[INST]" in template and not turns else None


def read_template(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """The checkpoint's chat template as it stands, if it has one, and the names it goes by."""
    if path.is_file():
        data = read_header(path).metadata
        template = data.get("tokenizer.chat_template")
        named = (path.stem, str(data.get("general.name", "")))
        return (template if isinstance(template, str) else None), named
    # Meta's files stand in a folder `original` inside of Hugging Face's.
    names = (path.name, path.parent.name if path.name == "original" else "")
    try:
        if (path / "chat_template.jinja").is_file():
            return (path / "chat_template.jinja").read_text(encoding="utf-8"), names
        for file in (path / "chat_template.json", path / "tokenizer_config.json"):
            if file.is_file():
                found = _template_in(json.loads(file.read_text(encoding="utf-8")))
                if found is not None:
                    return found, names
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its chat template cannot be read ({error}): fetch it again."
        ) from error
    return None, names


def _template_in(data: Any) -> str | None:
    template = data.get("chat_template") if isinstance(data, dict) else None
    if isinstance(template, list):  # several, by name
        by_name = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = by_name.get("default")
    return template if isinstance(template, str) else None


def chat_ids(form: ChatFormat, tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """The exact prompt, BOS included, that asks for the assistant's next message.

    Raises InvalidRequest for roles that are unknown or out of order, and for text that holds the
    format's own tags.
    """
    _check(form, messages)
    if form == "turns":
        return _turns(tokenizer, messages)
    return _inst(tokenizer, messages) if form == "inst" else _source(tokenizer, messages)


def _turns(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """Llama 3 and 4: a header with the role, the content, an end of turn; then the answer's header."""
    tokens = tokenizer.control.turns
    assert tokens is not None
    blank = tokenizer.encode("\n\n")
    ids = [tokenizer.bos_id]
    for message in messages:
        ids += [tokens.start, *tokenizer.encode(message.role), tokens.end, *blank]
        ids += [*tokenizer.encode(message.content.strip()), tokens.eot]
    return [*ids, tokens.start, *tokenizer.encode("assistant"), tokens.end, *blank]


def _inst(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """Llama 2 and Code Llama up to 34B; the system's text is folded into the first message."""
    turns = [message.content for message in messages if message.role != "system"]
    if messages[0].role == "system":
        turns[0] = f"<<SYS>>\n{messages[0].content}\n<</SYS>>\n\n{turns[0]}"
    ids: list[int] = []
    for user, answer in zip(turns[:-1:2], turns[1::2], strict=True):
        text = f"[INST] {user.strip()} [/INST] {answer.strip()} "
        ids += [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    return [*ids, tokenizer.bos_id, *tokenizer.encode(f"[INST] {turns[-1].strip()} [/INST]")]


def _source(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """Code Llama 70B; a conversation without a system's message begins with an empty one."""
    step = tokenizer.control.step
    assert step is not None
    if messages[0].role != "system":
        messages = [ChatMessage("system", ""), *messages]
    ids = [tokenizer.bos_id]
    for message in messages:
        ids += tokenizer.encode(f" Source: {message.role}")
        if message.content:
            ids += tokenizer.encode("\n\n " + message.content.strip())
        ids.append(step)
    header = tokenizer.encode(" Source: assistant\nDestination: user")
    return [*ids, *header, *tokenizer.encode("\n\n ")]


def _check(form: ChatFormat, messages: Sequence[ChatMessage]) -> None:
    if not messages:
        raise InvalidRequest("There are no messages: give at least one of the role user.")
    for message in messages:
        if message.role not in _ROLES:
            raise InvalidRequest(f"There is no role {message.role!r}: choose one of {', '.join(_ROLES)}.")
        for tag in _TAGS[form]:
            if tag in message.content:
                raise InvalidRequest(
                    f"A message holds {tag}, a mark of this model's chat format: write it another way."
                )
    if form == "turns":
        return
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    in_turn = [("user", "assistant")[n % 2] for n in range(len(spoken))]
    if spoken != in_turn or len(spoken) % 2 == 0:
        raise InvalidRequest(
            "The messages are out of order: after at most one of the system, user and assistant take turns, "
            "and the user speaks first and last."
        )
