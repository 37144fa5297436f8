"""The model inside the package."""

import subprocess
import sys

import pytest

from codellama.runtime import Engine, load_engine
from codellama.runtime.errors import UnknownModel
from codellama.runtime.locate import POCKET, locate


@pytest.fixture(scope="module")
def pocket() -> Engine:
    return load_engine(POCKET, device="cpu")


def test_it_loads_and_infills(pocket: Engine) -> None:
    """It fills a gap with extras, and says how much of it all it used."""
    assert pocket.config.can_infill
    assert not pocket.config.can_chat
    assert pocket.config.family == "pocket"
    result = pocket.infill("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n", max_tokens=12)
    assert 0 < len(result.ids) <= 12
    assert result.finish_reason in ("stop", "length")
    assert pocket.tokenizer.decode(result.ids).startswith(result.text)
    assert result.stats.mean_logprob is not None


def test_its_prompt_is_code_llamas_layout(pocket: Engine) -> None:
    """Suffix first, however long the prefix, so that it stays cached while one types; the control ids stand
    between the encoded texts."""
    tokens, encode = pocket.tokenizer.infill, pocket.tokenizer.encode
    assert tokens is not None
    ids = [pocket.tokenizer.bos_id, tokens.pre, tokens.suf, *encode("b\n"), tokens.mid, *encode("a = ")]
    assert pocket.infill_ids("a = ", "b\n") == ids
    long = pocket.infill_ids("value = 1\n" * 300, "b\n")
    assert len(long) > 1200
    assert long[:3] == ids[:3]
    assert pocket.infill_ids("a = ", "b\n", mode="psm")[-1] == tokens.mid


def test_it_is_small() -> None:
    """It travels with the package: under 64 MB in all, as was promised."""
    assert sum(file.stat().st_size for file in locate(POCKET).rglob("*") if file.is_file()) < 64e6


def test_it_loads_without_torchs_compiler() -> None:
    """Importing that takes longer than all the rest of a load."""
    code = (
        "import sys\nfrom codellama.runtime import load_engine\nload_engine('pocket', device='cpu')\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_the_model_that_errors_offer() -> None:
    """Whoever names a model wrongly reads of this one."""
    with pytest.raises(UnknownModel, match=f"'{POCKET}'"):
        locate("no-such-model")


def test_it_has_a_model_card() -> None:
    """README.md beside the weights says what it is made from and for."""
    card = locate(POCKET) / "README.md"
    text = card.read_text(encoding="utf-8").lower()
    assert all(word in text for word in ("licen", "python", "train"))
