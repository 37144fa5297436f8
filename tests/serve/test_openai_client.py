"""The server asked by the `openai` package, as any program that knows OpenAI's interface would."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizer_support import write_llama3_chat


@pytest.fixture
def client(served: Any) -> Iterator[openai.OpenAI]:
    import httpx2

    transport = httpx2.HTTPTransport(uds=served.uds)
    http = httpx2.Client(transport=transport)
    with openai.OpenAI(
        base_url="http://localhost/v1", api_key=served.token, http_client=http, max_retries=0
    ) as made:
        yield made


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("openai-chat-model")
    write_llama3_chat(folder)
    return str(folder)


def test_models_are_listed(client: openai.OpenAI) -> None:
    client.completions.create(model="pocket", prompt="a", max_tokens=1)
    assert "pocket" in [model.id for model in client.models.list()]


def test_a_completion_with_a_suffix(client: openai.OpenAI) -> None:
    """The gap is filled, tokens are counted, and `completion` is the model of that role."""
    answers = [
        client.completions.create(
            model=model, prompt="def f(x):\n    return ", suffix="\n\nf(1)\n", max_tokens=6, temperature=0
        )
        for model in ("pocket", "completion")
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    assert answers[0].choices[0].finish_reason in ("stop", "length")
    usage = answers[0].usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_several_answers_to_one_prompt(client: openai.OpenAI) -> None:
    """n choices, the tokens of all of them counted."""
    answer = client.completions.create(
        model="pocket", prompt="import ", max_tokens=4, n=3, seed=1, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 4


def test_a_completion_streams(client: openai.OpenAI) -> None:
    """The pieces join to the whole; usage comes last where it is asked for."""
    request: dict[str, Any] = {"model": "pocket", "prompt": "import os\n", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**request).choices[0].text
    *chunks, last = client.completions.create(**request, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    assert (last.choices, last.usage.completion_tokens) == ([], 8)


def test_a_completions_logprobs(client: openai.OpenAI) -> None:
    """Each token of the text with its own and the likeliest, whole and streamed alike."""
    request: dict[str, Any] = {"model": "pocket", "prompt": "import os\n", "max_tokens": 8, "temperature": 0}
    choice = client.completions.create(**request, logprobs=2).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens
    assert told.token_logprobs
    assert told.top_logprobs
    assert told.text_offset
    assert "".join(told.tokens) == choice.text
    assert [choice.text[offset:][:1] for offset in told.text_offset] == [token[:1] for token in told.tokens]
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == max(top.values()) == logprob <= 0
        assert len(top) == 2
    chunks = [c.choices[0].logprobs for c in client.completions.create(**request, logprobs=2, stream=True)]
    streamed = [part for part in chunks if part]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for part in streamed for value in getattr(part, name)] == getattr(told, name)
    alone = client.completions.create(**request, logprobs=0).choices[0].logprobs
    assert alone is not None
    assert (alone.tokens, alone.top_logprobs) == (told.tokens, None)
    assert client.completions.create(**request).choices[0].logprobs is None


def test_a_chats_logprobs(client: openai.OpenAI, chat_model: str) -> None:
    """Bytes too, since a token may end inside a character."""
    request: dict[str, Any] = {
        "model": chat_model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "temperature": 2,
        "seed": 1,
        "logprobs": True,
        "top_logprobs": 3,
    }
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    joined = bytes(byte for token in content for byte in token.bytes or ())
    assert joined.decode(errors="replace") == choice.message.content
    assert all(len(token.top_logprobs) == 3 for token in content)
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in content)
    chunks = list(client.chat.completions.create(**request, stream=True))
    parts = [c.choices[0].logprobs.content or [] for c in chunks if c.choices[0].logprobs]
    assert [token for part in parts for token in part] == content


def test_chat_answers_and_streams(client: openai.OpenAI, chat_model: str) -> None:
    request: dict[str, Any] = {
        "model": chat_model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request).choices[0].message
    assert whole.role == "assistant"
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_errors_are_openais_own(client: openai.OpenAI) -> None:
    """Each status becomes the exception that the package knows for it, with our sentence."""
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.completions.create(model="no-such-model", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="pocket", prompt="a", temperature=-1)
    with pytest.raises(openai.BadRequestError, match="pocket"):
        client.chat.completions.create(model="pocket", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.completions.create(model="pocket", prompt="a", logprobs=21)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
