"""Code actions through the real model server, with a checkpoint that says what the test wants.

Its weights are made by hand: each token is followed by one other, whatever stood before. So the prompt, the
chat format, the stream, the filters and the edits are all real, and only what is said is decided.
"""

import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizer_support import LLAMA3_NAMES, tiny_byte_level
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

EXECUTE = "workspace/executeCommand"
CODE = "def area(r):\n    return r * r\n\n\nprint(area(2))\n"
BETTER = ("```\n", "def area(r):\n", '    """Of a square."""\n', "    return r**2\n", "```")
SERVER = (sys.executable, "-m", "codellama_lsp")
CAPABILITIES = {
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {"documentChanges": True, "resourceOperations": ["create"]},
    }
}


def write_parrot(folder: Path, pieces: Sequence[str], *, ends: bool = True) -> None:
    """A chat model in Llama 3's format that answers with these pieces, once or, not `ends`, for ever."""
    folder.mkdir()
    merges: dict[tuple[str, str], None] = {}
    for piece in pieces:
        ((spelled, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)
        for n in range(1, len(spelled)):
            merges[spelled[:n], spelled[n]] = None
    file = folder / "tokenizer.json"
    size = tiny_byte_level(file, LLAMA3_NAMES, list(merges))
    template = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>...{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = Tokenizer.from_file(str(file))
    chain = [tokenizer.token_to_id(_spelled(piece)) for piece in pieces]
    width = -(-size // 16) * 16
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=8,
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        follows = dict.fromkeys(range(size), chain[0])
        follows |= dict(pairwise(chain))
        follows[chain[-1]] = tokenizer.token_to_id("<|eot_id|>") if ends else chain[0]
        for token, following in follows.items():
            model.lm_head.weight[following, token] = 1.0
    model.save_pretrained(folder)


def _spelled(piece: str) -> str:
    ((spelled, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)
    return str(spelled)


@pytest.fixture
def begin(start: Callable[..., Any], model_server: Path, tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """A client of the real server whose instruct model says these pieces, and an open document."""

    def run(pieces: Sequence[str], *, ends: bool = True) -> tuple[Any, str]:
        write_parrot(tmp_path / "parrot", pieces, ends=ends)
        (tmp_path / "shapes.py").write_text(CODE)
        client = start(SERVER)
        client.initialize(
            capabilities=CAPABILITIES,
            initializationOptions={
                "chat": {"model": str(tmp_path / "parrot")},
                "completion": {"enabled": False},
            },
        )
        return client, client.open(CODE, (tmp_path / "shapes.py").as_uri())

    return run


def ask(client: Any, command: str, **argument: Any) -> int:
    place = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}}
    arguments = [{"range": place, **argument}]
    sent = client.ask(EXECUTE, {"command": f"codellama.{command}", "arguments": arguments})
    assert isinstance(sent, int)
    return sent


def test_what_a_real_model_says_is_streamed_and_applied(
    begin: Callable[..., tuple[Any, str]], tmp_path: Path
) -> None:
    """Explained piece by piece; edited, corrected and documented in place; tests in a file of their own."""
    client, uri = begin(BETTER)
    told = client.answer(ask(client, "explain", uri=uri, partialResultToken="t"), 60)["result"]
    assert told["text"] == "".join(BETTER)
    assert (told["start_line"], told["end_line"]) == (1, 2), "the definition around the cursor"
    pieces = [p["value"]["text"] for p in client.params("$/progress") if p["token"] == "t"]
    assert "".join(pieces) == "".join(BETTER)
    assert len(pieces) > 2, "as it came"
    new = "".join(BETTER[1:-1])
    whole = {"start": {"line": 0, "character": 0}, "end": {"line": 2, "character": 0}}
    for command, argument in (
        ("edit", {"instruction": "say what it is"}),
        ("fix", {"problems": ["r may be negative"]}),
        ("document", {}),
    ):
        done = client.answer(ask(client, command, uri=uri, **argument), 60)["result"]
        assert done["applied"], command
        (change,) = client.requests[-1]["params"]["edit"]["documentChanges"]
        assert change["textDocument"] == {"uri": uri, "version": 1}
        (edit,) = change["edits"]
        assert (edit["range"], edit["newText"]) == (whole, new)
    client.answer(ask(client, "tests", uri=uri), 60)
    created, written = client.requests[-1]["params"]["edit"]["documentChanges"]
    assert created["uri"] == (tmp_path / "tests" / "test_shapes.py").as_uri()
    assert written["edits"][0]["newText"] == new
    assert client.leave() == 0


def test_nonsense_is_not_applied_and_an_endless_answer_is_left(
    begin: Callable[..., tuple[Any, str]],
) -> None:
    """Words instead of code become one sentence; a cancelled answer ends at once, and the engine is free."""
    client, uri = begin(("so ", "it ", "goes "), ends=False)
    asked = ask(client, "explain", uri=uri, partialResultToken="t")
    client.until(lambda: any(p["token"] == "t" for p in client.params("$/progress")), 60)
    client.notify("$/cancelRequest", {"id": asked})
    assert client.answer(asked)["error"]["code"] == -32800
    refusal = client.answer(ask(client, "document", uri=uri), 60)["error"]["message"]
    assert refusal == "parrot did not answer with code: ask again, or a larger model."
    assert not [request for request in client.requests if request["method"] == "workspace/applyEdit"]
    assert client.leave() == 0
