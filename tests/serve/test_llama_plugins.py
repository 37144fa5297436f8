"""`/infill` as llama.vim and llama.vscode ask it and read its answer.

The requests are what those plugins send (llama.vim of January 2026, llama.vscode 0.0.63), field by field; the
checks are what their code does with the answer.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

CHUNKS = [{"text": "def sub(a, b):\n    return a - b\n", "time": [1, 2], "filename": "b.py"}]
PREFIX, MIDDLE, SUFFIX = "def add(a, b):\n", "    return", "\n\nprint(add(1, 2))\n"
TIMINGS = (
    *("prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second"),
    *("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"),
)
VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": CHUNKS,
    "prompt": MIDDLE,
    "n_predict": 8,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", *(f"timings/{name}" for name in TIMINGS), "truncated", "tokens_cached"],
}
VIM_WARM_UP = VIM | {
    "input_prefix": "",
    "input_suffix": "",
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
VSCODE: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": [{"text": "x = 1\n", "time": 1, "filename": "c.py"}],
    "prompt": MIDDLE,
    "n_predict": 8,
    "n_cmpl": 1,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}


@pytest.fixture
def http(served: Any) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


def test_llama_vim_reads_the_answer(http: httpx.Client) -> None:
    """The fields asked for and no others, flat, in JSON without spaces: it looks for `"content":"` first."""
    response = http.post("/infill", json=VIM)
    assert '"content":"' in response.text
    answer = response.json()
    assert set(answer) == set(VIM["response_fields"])
    assert isinstance(answer["content"], str)
    assert all(isinstance(answer[f"timings/{name}"], int | float) for name in TIMINGS)
    assert answer["truncated"] is False
    assert answer["tokens_cached"] > 0


def test_llama_vims_warm_up_fills_the_cache(http: httpx.Client, served: Any) -> None:
    """n_predict 0 answers nothing, and the completion after it finds the chunks in the cache."""
    chunk = {"filename": "warm.py", "text": "value = call(value)\n" * 40, "time": [1, 2]}
    # In PSM order, in which the chunks come first.
    warm_up = VIM_WARM_UP | {"input_extra": [chunk], "mode": "psm"}
    assert http.post("/infill", json=warm_up).json() == {}
    body = VIM | {"input_extra": [chunk], "response_fields": ["stats", "content"], "mode": "psm"}
    assert http.post("/infill", json=body).json()["stats"]["reused_tokens"] >= 128
    whole = http.post("/infill", json=warm_up | {"response_fields": ["stats", "content"]}).json()
    assert (whole["content"], whole["stats"]["tokens"]) == ("", 0)


def test_llama_vscode_reads_the_answer(http: httpx.Client) -> None:
    """Its status bar takes these without asking whether they are there."""
    answer = http.post("/infill", json=VSCODE).json()
    assert isinstance(answer["content"], str)
    assert answer["generation_settings"]["n_ctx"] > 0
    assert answer["tokens_cached"] == answer["tokens_evaluated"] + answer["tokens_predicted"]
    assert all(answer["timings"][name] >= 0 for name in TIMINGS)
    assert answer["timings"]["predicted_n"] == answer["tokens_predicted"] == len(answer["tokens"])
    assert http.get("/health").json()["status"] == "ok"
    tokens = http.post(
        "/tokenize", json={"content": "x = 1", "add_special": False, "parse_special": True}
    ).json()["tokens"]
    assert all(isinstance(token, int) for token in tokens)


def test_llama_vscodes_several_completions_are_a_list(http: httpx.Client) -> None:
    """With n_cmpl it takes a list; the first is the likeliest, and a seed makes the others repeat."""
    body = VSCODE | {"n_cmpl": 3, "seed": 7}
    several = http.post("/infill", json=body).json()
    assert [answer["index"] for answer in several] == [0, 1, 2]
    assert several[0]["content"] == http.post("/infill", json=VSCODE).json()["content"]
    again = http.post("/infill", json=body).json()
    assert [a["content"] for a in again] == [a["content"] for a in several]


def test_a_line_that_leaves_the_block_ends_the_answer(http: httpx.Client) -> None:
    """n_indent: the model stops at the first line below that is indented less, which is left out."""
    body = {"input_prefix": "def f(x):\n", "n_predict": 500}
    free = http.post("/infill", json=body).json()
    lines = free["content"].split("\n")
    first = next(n for n, line in enumerate(lines) if n and line.strip())
    held = http.post("/infill", json=body | {"n_indent": 60}).json()
    assert held["content"] == "".join(line + "\n" for line in lines[:first])
    assert held["tokens_predicted"] < free["tokens_predicted"]
    assert http.post("/infill", json=body | {"n_indent": 1, "n_predict": 3}).json()["content"]


def test_time_ends_an_answer_where_it_stands(http: httpx.Client) -> None:
    """t_max_predict_ms once there is a line, deadline_ms in any case; what there is by then is answered."""
    body = {"input_prefix": "def f(x):\n", "n_predict": 500}
    whole = http.post("/infill", json=body).json()
    assert "\n" in whole["content"]
    brief = http.post("/infill", json=body | {"t_max_predict_ms": 0.001}).json()
    assert brief["finish_reason"] == "cancelled"
    assert "\n" in brief["content"]
    assert whole["content"].startswith(brief["content"])
    assert brief["tokens_predicted"] < whole["tokens_predicted"]
    late = http.post("/infill", json=body | {"deadline_ms": 0.001}).json()
    assert (late["finish_reason"], late["content"]) == ("cancelled", "")


def test_a_streamed_infill_ends_with_everything(http: httpx.Client) -> None:
    """Pieces first, then one event that stops, with timings."""
    lines = http.post("/infill", json=VSCODE | {"stream": True}).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["timings"]["predicted_n"] > 0
