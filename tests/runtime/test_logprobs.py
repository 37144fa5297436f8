"""Log-probabilities of an answer's tokens: transformers' own, and the text's, healed and stopped."""

from pathlib import Path

import pytest
import torch
from runtime_support import write_llama

from codellama.runtime import Engine, load_engine
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.records import CompletionRequest, InfillRequest, Piece, Request, Result, Sampling


@pytest.fixture(scope="module")
def pocket() -> Engine:
    return load_engine("pocket", device="cpu")


def _streamed(engine: Engine, request: Request) -> tuple[list[Piece], Result]:
    stream, pieces = engine.stream(request), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_they_are_transformers_own(tmp_path: Path) -> None:
    """Of each token and of the five likeliest in its place, drawn at random or greedily."""
    model = write_llama(tmp_path)
    engine = load_engine(str(tmp_path), device="cpu")
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=3)):
        request = CompletionRequest("def a(b):\n", 12, sampling, top_logprobs=5)
        prompt = engine._prompts.build(request)
        assert prompt.healing is None
        result = engine.run(request)
        ids = [*prompt.ids, *result.ids]
        with torch.inference_mode():
            rows = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)[len(prompt.ids) - 1 : -1]
        assert len(result.tokens) > 8, "but for those of a character that is cut off"
        for token, own, row in zip(result.tokens, result.ids, rows, strict=False):
            assert token.logprob == pytest.approx(float(row[own]), abs=1e-4)
            chances = [chance for _, chance in token.likeliest]
            assert chances == pytest.approx(row.topk(5).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("stop", [(), ("\n",), (" = ",)])
@pytest.mark.parametrize("prompt", ["import o", "def f(x):\n    retur", "x = 'ä", "s = '\u65e5\u672c"])
def test_the_tokens_are_the_text(pocket: Engine, prompt: str, stop: tuple[str, ...]) -> None:
    """Joined they are the answer, but for a stop text in the last; a stream tells the same ones."""
    for request in (
        CompletionRequest(prompt, 16, Sampling(), stop, 2),
        InfillRequest(prompt, "\n", (), 16, "auto", Sampling(1.0, 1.0, 7), stop, 0),
    ):
        result = pocket.run(request)
        whole, but_one = (
            b"".join(token.content for token in tokens).decode(errors="replace")
            for tokens in (result.tokens, result.tokens[:-1])
        )
        assert whole.startswith(result.text)
        assert len(but_one.rstrip("\ufffd")) < max(len(result.text), 1)
        assert {len(token.likeliest) for token in result.tokens} <= set(
            range(request.top_logprobs or 0, -1, -1)
        )
        pieces, streamed = _streamed(pocket, request)
        assert [token for piece in pieces for token in piece.tokens] == list(streamed.tokens)
        assert streamed.tokens == result.tokens


def test_what_was_likely_goes_on_from_a_healed_prompt(pocket: Engine) -> None:
    """The prompt's end, which the first token spells again, is no part of it or of what was as likely."""
    result = pocket.run(CompletionRequest("import o", 4, top_logprobs=5))
    first = result.tokens[0]
    assert first.content
    assert result.text.encode().startswith(first.content)
    assert dict(first.likeliest)[first.content] == first.logprob
    assert all(content and not content.startswith(b" o") for content, _ in first.likeliest)


def test_nobody_who_does_not_ask_is_told(pocket: Engine) -> None:
    assert pocket.run(CompletionRequest("a = ", 4)).tokens == ()
    with pytest.raises(InvalidRequest, match="logprobs"):
        pocket.run(CompletionRequest("a = ", 4, top_logprobs=21))
