"""Chat through the real server, with a tiny random model in Llama 3's format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizer_support import write_llama3_chat


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("chat-model")
    write_llama3_chat(folder)
    return str(folder)


@pytest.fixture
def http(served: Any) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


def asked(model: str, content: object = "Hi", **more: object) -> dict[str, object]:
    messages = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0} | more


def test_it_answers_and_streams(http: httpx.Client, model: str) -> None:
    """The whole and the stream are the same text, in OpenAI's shapes."""
    whole = http.post("/v1/chat/completions", json=asked(model)).json()
    (choice,) = whole["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    assert whole["usage"]["completion_tokens"] <= 8
    streamed = http.post("/v1/chat/completions", json=asked(model, stream=True))
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    pieces = [json.loads(event)["choices"][0] for event in events]
    assert "".join(piece["delta"]["content"] for piece in pieces) == choice["message"]["content"]
    assert pieces[-1]["finish_reason"] == choice["finish_reason"]


def test_the_list_says_that_it_chats(http: httpx.Client, model: str) -> None:
    http.post("/tokenize", json={"content": "", "model": model})
    (info,) = [m for m in http.get("/v1/models").json()["data"] if m["id"] == model]
    assert (info["can_chat"], info["can_infill"]) == (True, False)


def test_content_may_come_in_parts(http: httpx.Client, model: str) -> None:
    """OpenAI's list of text parts is their joined text; other parts are refused."""
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    text = [http.post("/v1/chat/completions", json=asked(model, c)).json()["text"] for c in ("Hi", parts)]
    assert text[0] == text[1]
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert http.post("/v1/chat/completions", json=asked(model, image)).status_code == 400


def test_documents_are_packed(http: httpx.Client, model: str) -> None:
    """What fits is kept, and the answer tells which."""
    documents = [
        {"path": "a.py", "text": "x = 1\n" * 2000, "priority": 2},
        {"path": "b.py", "text": "y = 1\n", "priority": 1},
    ]
    answer = http.post("/v1/chat/completions", json=asked(model, documents=documents)).json()
    assert [(p["filename"], p["kept"]) for p in answer["packed"]] == [("a.py", False), ("b.py", True)]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool"),
        ({"documents": ["x"]}, "documents"),
        ({"min_p": 2}, "min_p"),
    ],
)
def test_what_is_wrong_is_said(http: httpx.Client, model: str, body: dict[str, object], word: str) -> None:
    """400, and the field is named."""
    response = http.post("/v1/chat/completions", json=asked(model) | body)
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]
