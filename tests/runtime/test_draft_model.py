"""A smaller model drafts, and changes nothing but the time."""

from pathlib import Path

import pytest
import torch
from runtime_support import write_llama

from codellama.runtime import Engine, load_engine
from codellama.runtime.draft_model import ModelDraft
from codellama.runtime.errors import InvalidRequest
from codellama.runtime.generation import BLOCK
from codellama.runtime.sessions import Sessions
from codellama.runtime.speculate import FirstOf, PromptLookup

PROMPTS = ["def a(b):", "return de" * 40, "x", "ab def re\n" * 30]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a model and of its first layer alone: a smaller one that is often right. No answer ends."""
    root = tmp_path_factory.mktemp("pair")
    model = write_llama(root / "large", positions=1024)
    model.lm_head.weight.data[-6:] = 0
    for layer in model.model.layers[1:]:  # they add little, so that the first one mostly decides
        layer.mlp.down_proj.weight.data *= 0.05
        layer.self_attn.o_proj.weight.data *= 0.05
    model.save_pretrained(root / "large")
    small = write_llama(root / "small", layers=1, positions=1024)
    small.load_state_dict(model.state_dict(), strict=False)
    small.save_pretrained(root / "small")
    return root / "large", root / "small"


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_greedy_ids_stay_the_same(
    pair: tuple[Path, Path], quantize: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids and probabilities are those without drafts, though drafts of the smaller model were kept."""
    kept: list[int] = []
    judged = ModelDraft.judged
    monkeypatch.setattr(
        ModelDraft,
        "judged",
        lambda self, drafted, accepted: (kept.append(accepted), judged(self, drafted, accepted)),
    )
    plain = load_engine(str(pair[0]), device="cpu", quantize=quantize)
    drafted = load_engine(str(pair[0]), device="cpu", quantize=quantize, draft=str(pair[1]))
    for prompt in PROMPTS:
        expected, found = (engine.complete(prompt, max_tokens=50) for engine in (plain, drafted))
        assert found.ids == expected.ids
        assert round(found.stats.mean_logprob or 0, 4) == round(expected.stats.mean_logprob or 0, 4)
    assert sum(kept) > 20
    sampled = [engine.complete("ab", max_tokens=9, temperature=1.0) for engine in (plain, drafted)]
    assert all(len(result.ids) == 9 for result in sampled)


def _sessions(engine: Engine) -> Sessions:
    return Sessions(engine.model.new_cache, 10**9, engine.model.resume_every)


def test_it_drafts_what_the_smaller_model_would_say(pair: tuple[Path, Path]) -> None:
    """Drafts are its own greedy answer, after right and wrong guesses; a long prompt is read in steps."""
    small = load_engine(str(pair[1]), device="cpu")
    text = "def a(b): return " * 40
    ids = [small.tokenizer.bos_id, *small.tokenizer.encode(text)]
    answer = small.complete(text, max_tokens=16).ids
    drafter = ModelDraft(small.model, _sessions(small), ids, len(ids) + 20)
    drafter.extend(answer[:1])
    calls = 0
    while not (found := drafter.draft()):
        calls += 1
    assert calls == -(-len(ids) // BLOCK)
    assert tuple(found) == answer[1 : 1 + len(found)]
    drafter.judged(len(found), len(found))
    drafter.extend(answer[1:5])
    assert tuple(drafter.draft(3)) == answer[5:8]
    drafter.extend([100])  # not what it guessed
    following = small.model(torch.tensor([[*ids, *answer[:5], 100]]))[0, -1].argmax()
    assert drafter.draft(1) == [int(following)]
    drafter.close()


def test_it_rests_where_it_is_wrong(pair: tuple[Path, Path]) -> None:
    """After drafts of which nothing was kept it is not asked for a while."""
    small = load_engine(str(pair[1]), device="cpu")
    drafter = ModelDraft(small.model, _sessions(small), [1, 2, 3], 200)
    drafter.extend([4])
    assert [bool(drafter.draft()) for _ in range(2)] == [False, True], "first it reads the prompt"
    for _ in range(3):
        drafter.judged(2, 0)
    rests = 0
    drafter.extend([5])
    while not drafter.draft():
        rests += 1
    assert 10 < rests < 50


def test_looking_up_comes_first() -> None:
    """What the prompt holds is drafted at no cost; each is judged by its own drafts."""
    first, second = PromptLookup([5, 1, 2, 3, 9, 5, 1, 2]), PromptLookup([5, 1, 2, 7, 7, 1, 2])
    both = FirstOf(first, second)
    assert both.draft(1) == [3]
    both.judged(4, 0)
    assert first._pace.failures == 2
    assert second._pace.failures == 1, "not its draft"
    both.extend([7, 7])
    assert both.draft(2) == [1, 2]


def test_another_tokenizer_is_refused(pair: tuple[Path, Path]) -> None:
    """Ids of another tokenizer mean other text."""
    with pytest.raises(InvalidRequest, match="tokenizers differ"):
        load_engine("pocket", device="cpu", draft=str(pair[1]))
