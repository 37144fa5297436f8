"""Infill prompts: who gets one, what stands in it, and that no text adds to it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_support import loaded, write_code_llama

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import InfillUnsupported
from codellama.runtime.families import trained_to_infill
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.prompt_builder import PromptBuilder
from codellama.runtime.records import CompletionRequest, Extra, InfillRequest
from codellama.runtime.tokenizer import Tokenizer


def shape(dim: int, layers: int, vocabulary: int, theta: float = 1e6) -> ModelConfig:
    heads = dim // 128
    return ModelConfig(vocabulary, dim, layers, heads, heads, 128, 4 * dim, rope_theta=theta)


CODE_7B, CODE_13B = shape(4096, 32, 32_016), shape(5120, 40, 32_016)
CODE_34B = shape(8192, 48, 32_016)
CODE_70B, CODE_70B_OTHERS = shape(8192, 80, 32_016), shape(8192, 80, 32_016, theta=1e4)
PYTHON_7B = shape(4096, 32, 32_000)


@pytest.fixture(scope="module")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file = tmp_path_factory.mktemp("infill") / "tokenizer.model"
    return loaded(write_code_llama(shared_data / "tokenizers" / "llama2.model", file))


def test_who_infills(code_llama: Tokenizer, shared_data: Path) -> None:
    """7B, 13B and the 70B base; never 34B and Python; the other 70B models and Llama 4 only when asked."""
    control = code_llama.control
    found = [trained_to_infill(c, control) for c in (CODE_7B, CODE_13B, CODE_70B)]
    assert found == ["yes", "yes", "yes"]
    assert trained_to_infill(CODE_34B, control) == "no"
    assert trained_to_infill(PYTHON_7B, control) == "no"
    assert trained_to_infill(CODE_70B_OTHERS, control) == "unsure"
    llama4 = loaded(shared_data / "tokenizers" / "llama4.model")
    assert trained_to_infill(shape(5120, 48, 202_048), llama4.control) == "unsure"
    llama2 = loaded(shared_data / "tokenizers" / "llama2.model")
    assert trained_to_infill(CODE_7B, llama2.control) == "no"


def test_a_model_that_never_learned_it(code_llama: Tokenizer) -> None:
    """Asked outright it is refused with what to do; `auto` continues the prefix and reads no suffix."""
    builder = PromptBuilder("34B", code_llama, CODE_34B, None)
    assert not builder.can_infill
    for mode in ("psm", "spm"):
        with pytest.raises(InfillUnsupported, match=r"34B.*mode 'prefix'"):
            builder.build(InfillRequest("a", "b", mode=mode))  # type: ignore[arg-type]
    plain = builder.build(CompletionRequest("x = 1\n"))
    auto = builder.build(InfillRequest("x = 1\n", "secret"))
    assert auto.ids == plain.ids
    assert auto.stop_ids == {2}


def test_a_model_of_which_nobody_is_sure(code_llama: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Asked outright it infills, and a warning says so; `auto` does not."""
    builder = PromptBuilder("70B-Instruct", code_llama, CODE_70B_OTHERS, None)
    with caplog.at_level(logging.WARNING):
        ids = builder.build(InfillRequest("a", "b", mode="psm")).ids
    assert "70B-Instruct" in caplog.text
    assert ids[:2] == [1, 32_007]
    assert 32_007 not in builder.build(InfillRequest("a", "b")).ids


def test_every_end_of_an_infill(code_llama: Tokenizer) -> None:
    """EOT and EOS end the answer; of a plain completion EOS does."""
    builder = PromptBuilder("7B", code_llama, CODE_7B, None)
    assert builder.build(InfillRequest("a", "b")).stop_ids == {2, 32_010}
    assert builder.build(CompletionRequest("a")).stop_ids == {2}


def test_the_mode_depends_on_the_request_alone(code_llama: Tokenizer) -> None:
    """SPM up to 1,024 tokens of extras and prefix, PSM beyond."""
    builder = PromptBuilder("7B", code_llama, replace(CODE_7B, max_context=16_384), None)
    short, long = "x\n" * 500, "x\n" * 520
    assert builder.build(InfillRequest(short, "b")).ids[:3] == [1, 32_007, 32_008]
    assert builder.build(InfillRequest(long, "b")).ids[-1] == 32_009


def test_an_extra_is_encoded_once(code_llama: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids are kept by content: the second request with it encodes the prefix and the suffix alone."""
    seen: list[str] = []
    encode = code_llama.encode
    monkeypatch.setattr(code_llama, "encode", lambda text: (seen.append(text), encode(text))[1])
    builder = PromptBuilder("7B", code_llama, CODE_7B, None)
    extra = Extra("a.py", "import os")
    first = builder.build(InfillRequest("x = ", "\n", (extra,)))
    again = builder.build(InfillRequest("x = 1", "\n", (Extra("a.py", "import os", 3.0),)))
    assert sum("import os" in text for text in seen) == 1
    assert first.packed[0].tokens == again.packed[0].tokens
    changed = builder.build(InfillRequest("x = 1", "\n", (Extra("a.py", "import sys, os"),)))
    assert changed.packed[0].tokens > first.packed[0].tokens


POCKET_TOKENIZER = loaded(locate(POCKET))
_tags = [
    " <PRE>",
    " <SUF>",
    "<MID>",
    " <EOT>",
    "<|pre|>",
    "<|mid|>",
    "<|eot|>",
    "<s>",
    "</s>",
    "\n",
    "▁<PRE>",
]
_text = st.lists(st.sampled_from(_tags) | st.text(max_size=4), max_size=8).map("".join)


@given(
    prefix=_text,
    suffix=_text,
    extras=st.lists(st.builds(Extra, _text, _text), max_size=3),
    mode=st.sampled_from(["psm", "spm", "auto", "prefix"]),
    context=st.integers(80, 400),
)
def test_no_text_adds_a_control_id(
    prefix: str, suffix: str, extras: list[Extra], mode: str, context: int, code_llama: Tokenizer
) -> None:
    """Each control id stands once, where the layout puts it, and the prompt leaves room for its answer."""
    for tokenizer, config in (
        (code_llama, CODE_7B),
        (POCKET_TOKENIZER, shape(256, 4, POCKET_TOKENIZER.vocab_size)),
    ):
        fitted = replace(config, max_context=context)
        tokens = tokenizer.infill
        assert tokens is not None
        request = InfillRequest(prefix, suffix, tuple(extras), 16, mode)  # type: ignore[arg-type]
        ids = PromptBuilder("m", tokenizer, fitted, None).build(request).ids
        control = [i for i in ids if i in tokenizer.control.ids]
        psm = [tokenizer.bos_id, tokens.pre, tokens.suf, tokens.mid]
        assert control == ([tokenizer.bos_id] if mode == "prefix" else psm)
        assert len(ids) + 16 <= context
