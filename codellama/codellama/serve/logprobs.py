"""Tokens with their log-probabilities in OpenAI's two shapes. Free of I/O.

A token may end inside a character: its text is then its bytes in the form `bytes:\\xe2\\x82`, as OpenAI
writes it.
"""

from collections.abc import Sequence
from typing import Any

from codellama.runtime.records import Token


def completion_logprobs(tokens: Sequence[Token], before: bytes = b"") -> dict[str, Any]:
    """That of `/v1/completions`; `before` is what the answer had before them.

    `text_offset` counts the characters of the answer that stand before a token.
    """
    offsets = []
    for token in tokens:
        offsets.append(len(before.decode("utf-8", "ignore")))
        before += token.content
    top = [{_text(content): chance for content, chance in token.likeliest} for token in tokens]
    return {
        "tokens": [_text(token.content) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top if any(top) else None,
        "text_offset": offsets,
    }


def chat_logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    """That of `/v1/chat/completions`."""
    content = [
        _entry(token.content, token.logprob)
        | {"top_logprobs": [_entry(content, chance) for content, chance in token.likeliest]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(content: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(content), "logprob": logprob, "bytes": list(content)}


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
