"""The server's HTTP interface, asked as a foreign program would ask it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from codellama.runtime.locate import locate
from codellama.serve.app import App
from codellama.serve.models import Loading, Models
from codellama.serve.security import MAX_BODY, OPEN_ROUTES
from codellama.serve.worker import Worker

ROUTES = [
    (method, route.path)
    for route in App(Worker(Models(Loading(), {}))).routes()
    for method in sorted((route.methods or set()) - {"HEAD"})
]
POSTS = [path for method, path in ROUTES if method == "POST"]
CONTEXT = json.loads((locate("pocket") / "config.json").read_text())["max_position_embeddings"]
GENERATING = ["/infill", "/v1/completions", "/v1/chat/completions"]


@pytest.fixture
def http(served: Any) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


def refused(response: httpx.Response, status: int, kind: str = "InvalidRequest") -> str:
    """Checks the one shape of an error and returns its message."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type"}
    assert error["type"] == kind
    assert error["message"]
    assert "Traceback" not in error["message"]
    return str(error["message"])


def events(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(item) if item != "[DONE]" else item for item in data]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("token", ["", "wrong", "ü"])
def test_every_route_but_health_asks_for_the_token(served: Any, method: str, path: str, token: str) -> None:
    """A new route cannot forget the token, and a wrong one is as good as none."""
    with served.http(token="") as http:
        headers = {b"authorization": b"Bearer " + token.encode()} if token else {}
        response = http.request(method, path, headers=headers)
    if path in OPEN_ROUTES:
        assert response.status_code == 200
    else:
        refused(response, 401, "Unauthorized")


def test_only_health_is_open() -> None:
    """Adding a route without the token is a decision that changes this test."""
    assert set(OPEN_ROUTES) == {"/health"}
    assert len(ROUTES) >= 7


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_web_page_is_refused(http: httpx.Client, method: str, path: str) -> None:
    """Neither DNS rebinding (a foreign Host) nor a cross-site request (an Origin) gets through."""
    for headers in (
        {"Host": "attacker.example"},
        {"Host": "attacker.example:80"},
        {"Host": "localhost.attacker.example"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
    ):
        refused(http.request(method, path, headers=headers), 403, "Unauthorized")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:80"])
def test_names_of_this_machine_are_accepted(http: httpx.Client, host: str) -> None:
    assert http.get("/health", headers={"Host": host}).json()["status"] == "ok"


def test_a_large_body_is_refused(http: httpx.Client) -> None:
    """By its Content-Length at once, and without one as soon as the limit is passed."""
    refused(http.post("/infill", content=b" " * (MAX_BODY + 1)), 413)
    chunk = b" " * (MAX_BODY // 8)
    refused(http.post("/infill", content=(chunk for _ in range(10))), 413)


def test_a_chunked_body_within_the_limit_is_read(http: httpx.Client) -> None:
    body = json.dumps({"content": "x = 1"}).encode()
    answer = http.post("/tokenize", content=(bytes([b]) for b in body))
    assert answer.json()["tokens"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000],
    ids=["empty", "open", "list", "null", "text", "binary", "deep-list", "deep-object", "long-number"],
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, path: str, body: bytes) -> None:
    refused(http.post(path, content=body), 400)


HUGE = int("1" + "0" * 400)
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("/infill", {"input_prefix": 1}),
    ("/infill", {"input_suffix": ["a"]}),
    ("/infill", {"input_extra": {}}),
    ("/infill", {"input_extra": ["text"]}),
    ("/infill", {"input_extra": [{"filename": 1}]}),
    ("/infill", {"input_extra": [{"text": "a", "priority": "high"}]}),
    ("/infill", {"input_extra": [{"text": "a", "priority": HUGE}]}),
    ("/infill", {"input_prefix": "\ud800"}),
    ("/infill", {"n_predict": "3"}),
    ("/infill", {"n_predict": True}),
    ("/infill", {"n_predict": 1.5}),
    ("/infill", {"n_predict": -2}),
    ("/infill", {"n_predict": -2}),
    ("/infill", {"mode": "sideways"}),
    ("/v1/completions", {"prompt": {"a": 1}}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 0}),
    ("/v1/completions", {"prompt": "\udfff", "max_tokens": 1}),
    ("/v1/completions", {"prompt": "a", "suffix": 7}),
    ("/v1/completions", {"prompt": "a", "temperature": "hot"}),
    ("/v1/completions", {"prompt": "a", "temperature": -1}),
    ("/v1/completions", {"prompt": "a", "temperature": float("nan")}),
    ("/v1/completions", {"prompt": "a", "temperature": float("inf")}),
    ("/v1/completions", {"prompt": "a", "temperature": HUGE}),
    ("/v1/completions", {"prompt": "a", "top_p": 0}),
    ("/v1/completions", {"prompt": "a", "top_p": float("nan")}),
    ("/v1/completions", {"prompt": "a", "seed": 1.5}),
    ("/v1/completions", {"prompt": "a", "seed": HUGE, "max_tokens": 1}),
    ("/v1/completions", {"prompt": "a", "stop": [1]}),
    ("/v1/completions", {"prompt": "a", "stop": ["a"] * 17}),
    ("/v1/completions", {"prompt": "a", "n": 9}),
    *(("/v1/completions", {"prompt": "a", "logprobs": wrong}) for wrong in (21, -1, True, "5")),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "logprobs": 5}),
    ("/v1/completions", {"prompt": "a", "model": ["pocket"]}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": "hello"}),
    ("/v1/chat/completions", {"messages": ["hello"]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 1}]}),
    ("/tokenize", {"content": 1}),
    ("/tokenize", {"texts": ["a", 1]}),
    ("/tokenize", {"texts": ["\ud800"]}),
    ("/tokenize", {}),
]


@pytest.mark.parametrize(("path", "body"), WRONG, ids=[f"{p}-{str(b)[:40]}" for p, b in WRONG])
def test_a_wrong_value_is_refused_by_name(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    """400 and one sentence, never 500: the request is at fault, not the server."""
    refused(http.post(path, content=json.dumps(body).encode()), 400)


@pytest.mark.parametrize("path", [*GENERATING, "/tokenize"])
def test_an_unknown_model_is_404(http: httpx.Client, path: str) -> None:
    body = {"model": "no-such-model", "content": "a", "messages": [{"role": "user", "content": "a"}]}
    assert "no-such-model" in refused(http.post(path, json=body), 404, "UnknownModel")


def test_infill_speaks_llama_cpps_fields(http: httpx.Client) -> None:
    """input_prefix, input_suffix, input_extra, prompt and n_predict in; content and stop out."""
    body = {
        "input_prefix": "def add(a, b):\n",
        "input_suffix": "\n\nprint(add(1, 2))\n",
        "input_extra": [{"filename": "b.py", "text": "def sub(a, b):\n    return a - b\n"}],
        "prompt": "    return",
        "n_predict": 4,
        "temperature": 0,
        "cache_prompt": True,  # fields of llama.cpp that we do not know are no error
        "samplers": ["top_k"],
        "stream": False,
    }
    answer = http.post("/infill", json=body).json()
    assert isinstance(answer["content"], str)
    assert answer["content"] == answer["text"]
    assert answer["stop"] is True
    assert 0 < answer["stats"]["tokens"] <= 4
    assert [(p["filename"], p["kept"]) for p in answer["packed"]] == [("b.py", True)]
    streamed = events(http.post("/infill", json=body | {"stream": True}))
    assert "".join(event["content"] for event in streamed) == answer["content"]
    assert [event["stop"] for event in streamed] == [False] * (len(streamed) - 1) + [True]


def test_completions_speak_openais_shape(http: httpx.Client) -> None:
    body = {"prompt": "import os\n", "max_tokens": 6, "temperature": 0}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "pocket"
    assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    *chunks, done = events(http.post("/v1/completions", json=body | {"stream": True}))
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer["choices"][0]["text"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [answer["choices"][0]["finish_reason"]]


def test_a_completion_with_a_suffix_is_an_infill(http: httpx.Client) -> None:
    body = {"prompt": "def f(x):\n    return ", "max_tokens": 4, "temperature": 0}
    as_infill = {"input_prefix": body["prompt"], "input_suffix": "\n\nf(1)\n", "n_predict": 4}
    answer = http.post("/v1/completions", json=body | {"suffix": "\n\nf(1)\n"}).json()
    assert answer["choices"][0]["text"] == http.post("/infill", json=as_infill).json()["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_a_chat_format_says_so(http: httpx.Client, stream: bool) -> None:
    """400 with the model's name, not an invented conversation format."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": stream}
    assert "pocket" in refused(http.post("/v1/chat/completions", json=body), 400)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_is_refused(http: httpx.Client, stream: bool) -> None:
    body = {"prompt": "x = 1\n" * 2000, "max_tokens": 4, "stream": stream}
    assert str(CONTEXT) in refused(http.post("/v1/completions", json=body), 400, "ContextTooLong")


def test_models_lists_what_is_loaded(http: httpx.Client) -> None:
    http.post("/tokenize", json={"content": ""})
    (model,) = [m for m in http.get("/v1/models").json()["data"] if m["id"] == "pocket"]
    assert (model["object"], model["can_infill"], model["can_chat"]) == ("model", True, False)
    assert model["max_context"] == CONTEXT


def test_tokenize_takes_one_text_or_many(http: httpx.Client) -> None:
    one = http.post("/tokenize", json={"content": "def f():"}).json()["tokens"]
    many = http.post("/tokenize", json={"texts": ["def f():", ""]}).json()["tokens"]
    assert many == [one, []]
    counts = http.post("/tokenize", json={"texts": ["def f():", ""], "counts": True}).json()["counts"]
    assert counts == [len(one), 0]


def test_rates_are_measured(http: httpx.Client) -> None:
    """Clients size their prompts by what the server has measured; health tells it without names."""
    http.post("/v1/completions", json={"prompt": "x = 1\n" * 40, "max_tokens": 8, "temperature": 0})
    (model,) = [m for m in http.get("/v1/models").json()["data"] if m["id"] == "pocket"]
    assert model["role"] == "completion"
    assert model["prefill_rate"] > 0
    assert model["decode_rate"] > 0
    health = http.get("/health").json()
    assert (health["max_context"], health["prefill_rate"]) == (CONTEXT, model["prefill_rate"])
    assert "pocket" not in str(health)


def test_metrics_count_in_prometheus_text(http: httpx.Client, served: Any) -> None:
    before = served.metric("requests_total"), served.metric("tokens_generated_total")
    answer = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "temperature": 0}).json()
    after = served.metric("requests_total"), served.metric("tokens_generated_total")
    assert after == (before[0] + 1, before[1] + answer["usage"]["completion_tokens"])
    text = http.get("/metrics").text
    assert "# TYPE codellama_requests_total counter\n" in text
    assert "# TYPE codellama_requests_in_flight gauge\n" in text
    labels = 'client="owner",outcome="length",route="/v1/completions"'
    assert f"codellama_requests_total{{{labels}}}" in text
    assert 'codellama_request_seconds_bucket{le="+Inf",route="/v1/completions"}' in text
