"""Conversations: ids equal to the reference's in every format, and nothing that leaks or runs on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_support import (
    LLAMA3_NAMES,
    LLAMA4_NAMES,
    byte_level_gguf,
    loaded,
    tiny_byte_level,
    write_code_llama,
    write_llama3_chat,
)

from codellama.runtime import Engine, load_engine
from codellama.runtime.chat import ChatFormat, chat_format, chat_ids
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import ContextTooLong, InvalidRequest
from codellama.runtime.prompt_builder import PromptBuilder
from codellama.runtime.records import ChatMessage, ChatRequest, Extra, Sampling
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.weights.convert import convert

SYSTEM, USER, ANSWER = "You are terse. ", "  What is 1+1?\n", " 2 \n"
CONVERSATION = [
    ChatMessage("system", SYSTEM),
    ChatMessage("user", USER),
    ChatMessage("assistant", ANSWER),
    ChatMessage("user", "Why?"),
]


@pytest.fixture(scope="session")
def code_llama(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_code_llama(
        shared_data / "tokenizers" / "llama2.model", tmp_path_factory.mktemp("chat") / "tokenizer.model"
    )


@pytest.fixture(scope="session")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("llama3-chat") / "tokenizer.json"
    tiny_byte_level(file, LLAMA3_NAMES, [("a", "b"), ("Ċ", "Ċ")])
    return file


@pytest.fixture(scope="session")
def llama4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("llama4-chat") / "tokenizer.json"
    tiny_byte_level(file, LLAMA4_NAMES, [("a", "b"), ("Ċ", "Ċ")])
    return file


def as_written(file: Path, text: str) -> list[int]:
    """A prompt as Hugging Face encodes it: control pieces found in the text."""
    ids: list[int] = tokenizers.Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids
    return ids


def test_llama3(llama3: Path) -> None:
    """Meta's layout, spelled out, encoded by another library."""

    def turn(role: str, content: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"

    expected = "<|begin_of_text|>" + turn("system", "You are terse.") + turn("user", "What is 1+1?")
    expected += turn("assistant", "2") + turn("user", "Why?")
    expected += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert chat_ids("turns", loaded(llama3), CONVERSATION) == as_written(llama3, expected)


def test_llama4(llama4: Path) -> None:
    """The same with Llama 4's tags."""
    expected = "<|begin_of_text|><|header_start|>user<|header_end|>\n\nWhat is 1+1?<|eot|>"
    expected += "<|header_start|>assistant<|header_end|>\n\n"
    assert chat_ids("turns", loaded(llama4), CONVERSATION[1:2]) == as_written(llama4, expected)


def test_the_real_ids_of_llama3_and_llama4(shared_data: Path) -> None:
    """The tags' ids as Meta's tokenizers number them."""
    hi = [ChatMessage("user", "Hi")]
    folder = shared_data / "tokenizers"
    assert chat_ids("turns", loaded(folder / "llama3.model"), hi) == [
        *(128000, 128006, 882, 128007, 271, 13347, 128009),
        *(128006, 78191, 128007, 271),
    ]
    ids = chat_ids("turns", loaded(folder / "llama4.model"), hi)
    assert [i for i in ids if i >= 200_000] == [200000, 200005, 200006, 200008, 200005, 200006]


def test_llama2_and_code_llama(code_llama: Path, shared_data: Path) -> None:
    """Each past turn between BOS and EOS, the system's text inside the first, contents stripped."""
    reference = sentencepiece.SentencePieceProcessor(
        model_file=str(shared_data / "tokenizers" / "llama2.model")
    )
    first = f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n  What is 1+1? [/INST] 2 "
    expected = [1, *reference.encode(first), 2, 1, *reference.encode("[INST] Why? [/INST]")]
    assert chat_ids("inst", loaded(code_llama), CONVERSATION) == expected
    assert chat_ids("inst", loaded(code_llama), CONVERSATION[1:2]) == [
        1,
        *reference.encode("[INST] What is 1+1? [/INST]"),
    ]


def test_code_llama_70b(code_llama: Path) -> None:
    """The reference's ids for "Hi", whose conversation begins with an empty system's message."""
    golden = "1 29871 7562 29901 1788 32015 29871 7562 29901 1404 29871 13 13 6324 32015 29871 7562 29901 "
    golden += "20255 13 14994 3381 29901 1404 29871 13 13 29871"
    hi = [ChatMessage("user", "Hi")]
    assert chat_ids("source", loaded(code_llama), hi) == [int(i) for i in golden.split()]
    assert chat_ids("source", loaded(code_llama), [ChatMessage("system", ""), *hi]) == [
        int(i) for i in golden.split()
    ]


def test_the_ends_of_code_llamas_chats(code_llama: Path) -> None:
    """70B ends a turn with its step, the others with EOS."""
    request = ChatRequest((ChatMessage("user", "Hi"),), 8)
    ends = {
        form: PromptBuilder("m", loaded(code_llama), SMALL, form).build(request).stop_ids
        for form in ("inst", "source")
    }
    assert ends == {"inst": {2}, "source": {2, 32_015}}


_tags = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>", "<s>", "</s>", " <PRE>", "<|eot_id|>", "a\n"]
_contents = st.lists(st.sampled_from([*_tags, *LLAMA3_NAMES]) | st.text(max_size=5), max_size=5).map("".join)


@given(user=_contents, answer=_contents)
def test_only_the_template_puts_control_ids(user: str, answer: str, llama3: Path, code_llama: Path) -> None:
    """A prompt has exactly the control ids of its layout, in number and order, or the text is refused."""
    messages = [ChatMessage("user", user), ChatMessage("assistant", answer), ChatMessage("user", "x")]
    plain = [ChatMessage(message.role, "x") for message in messages]
    forms: list[tuple[ChatFormat, Tokenizer]] = [
        ("turns", loaded(llama3)),
        ("inst", loaded(code_llama)),
        ("source", loaded(code_llama)),
    ]
    for form, tokenizer in forms:
        try:
            ids = chat_ids(form, tokenizer, messages)
        except InvalidRequest:
            assert any(tag in user + answer for tag in _tags[:5])
            continue
        control = tokenizer.control.ids
        assert [i for i in ids if i in control] == [
            i for i in chat_ids(form, tokenizer, plain) if i in control
        ]


@pytest.mark.parametrize(("form", "text"), [("inst", t) for t in _tags[:4]] + [("source", "<step>")])
def test_the_formats_own_tags_are_refused(form: ChatFormat, text: str, code_llama: Path) -> None:
    """The error names the tag."""
    with pytest.raises(InvalidRequest) as caught:
        chat_ids(form, loaded(code_llama), [ChatMessage("user", f"a {text} b")])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "roles",
    [[], ["assistant"], ["system"], ["user", "user"], ["user", "system", "user"], ["user", "assistant"]],
)
def test_messages_out_of_order(roles: list[str], code_llama: Path) -> None:
    """What the format cannot say is refused."""
    messages = [ChatMessage(role, "x") for role in roles]
    for form in ("inst", "source"):
        with pytest.raises(InvalidRequest, match=r"out of order|no messages"):
            chat_ids(form, loaded(code_llama), messages)  # type: ignore[arg-type]


def test_unknown_roles(llama3: Path) -> None:
    with pytest.raises(InvalidRequest, match="'tool'"):
        chat_ids("turns", loaded(llama3), [ChatMessage("tool", "x")])


SMALL = ModelConfig(32_016, 64, 2, 2, 2, 32, 64)
CODE_70B = ModelConfig(32_016, 8192, 80, 64, 8, 128, 28_672)


def test_the_format_of_a_folder(tmp_path: Path, code_llama: Path, llama3: Path) -> None:
    """The template tells; without one the name; a template of another format is none of ours."""

    def found(
        folder: str, template: str | None, file: Path, config: ModelConfig = SMALL
    ) -> ChatFormat | None:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        text = json.dumps({} if template is None else {"chat_template": template})
        (path / "tokenizer_config.json").write_text(text)
        return chat_format(path, loaded(file), config)

    assert found("base", None, code_llama) is None
    assert found("base", None, llama3) is None
    assert found("a", "{{ '<|start_header_id|>' }}", llama3) == "turns"
    assert found("a", "{{ '[INST]' }}", code_llama) == "inst"
    assert found("a", "{{ 'Source: ' }}", code_llama) == "source"
    assert found("a-Instruct", "{{ '<|im_start|>' }}", code_llama) is None
    assert found("a-instruct", "{{ '<|im_start|>' }}", llama3) is None
    assert found("CodeLlama-7b-Instruct", None, code_llama) == "inst"
    assert found("CodeLlama-70b-Instruct", None, code_llama, CODE_70B) == "source"
    assert found("Meta-Llama-3-8B-Instruct", None, llama3) == "turns"
    (tmp_path / "base" / "chat_template.jinja").write_text("[INST] {{ messages }} [/INST]")
    assert found("base", None, code_llama) == "inst"
    (tmp_path / "x-Instruct" / "original").mkdir(parents=True)
    assert chat_format(tmp_path / "x-Instruct" / "original", loaded(llama3), SMALL) == "turns"
    gguf = byte_level_gguf(llama3, tmp_path / "m.gguf", template="<|start_header_id|>")
    assert chat_format(gguf, loaded(gguf), SMALL) == "turns"
    assert chat_format(byte_level_gguf(llama3, tmp_path / "b.gguf"), loaded(gguf), SMALL) is None


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat-model")
    write_llama3_chat(folder)
    return folder


@pytest.fixture
def engine(chat_model: Path) -> Engine:
    return load_engine(str(chat_model), device="cpu")


def saying(engine: Engine, choose: Callable[[int], int]) -> None:
    """Makes the model say the id `choose(n)` at its n-th step, whatever it was asked."""
    count = iter(range(10_000))

    def forced(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(logits)
        out[..., choose(next(count))] = 99.0
        return out

    engine._model.lm_head.register_forward_hook(forced)


def test_an_engine_chats(engine: Engine) -> None:
    """A checkpoint with Llama 3's format says that it can, and answers in it."""
    assert engine.config.can_chat
    messages = [{"role": "user", "content": "Hi <|eot_id|>"}]
    assert engine.chat_ids(messages)[0] == engine.tokenizer.bos_id
    result = engine.chat(messages, max_tokens=12)
    assert result.stats.prompt_tokens == len(engine.chat_ids(messages))
    assert result.stats.tokens <= 12
    assert "<|" not in result.text


@pytest.mark.parametrize("name", ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
def test_every_end_ends_and_nothing_leaks(engine: Engine, name: str) -> None:
    """Each of the format's ends stops the answer, and is neither in its text nor in its ids."""
    end = engine.tokenizer.control.names[name]
    letters = engine.tokenizer.encode("ok")
    saying(engine, lambda n: [*letters, end][min(n, len(letters))])
    result = engine.chat([{"role": "user", "content": "Hi"}], max_tokens=50)
    assert (result.text, result.ids, result.finish_reason) == ("ok", tuple(letters), "stop")


def test_a_control_id_in_mid_answer_is_no_text(engine: Engine) -> None:
    """An id that only frames turns shows nothing, however often the model says it."""
    start = engine.tokenizer.control.names["<|start_header_id|>"]
    saying(engine, lambda n: start)
    assert engine.chat([{"role": "user", "content": "Hi"}], max_tokens=5).text == ""


def test_documents_are_packed(engine: Engine) -> None:
    """Those that fit head the last message, the highest priority first, and what became of each is told."""
    room = engine.config.max_context
    documents = tuple(Extra(f"f{n}.py", "ab = 1\n" * 20, priority=n) for n in range(room // 100))
    result = engine.run(ChatRequest((ChatMessage("user", "Hi"),), 8, Sampling(), (), documents))
    kept = [packed.kept for packed in result.packed]
    assert kept == sorted(kept)
    assert any(kept)
    assert not all(kept)
    assert result.stats.prompt_tokens + 8 <= room
    few = engine._prompts.build(ChatRequest((ChatMessage("user", "Hi"),), 8, documents=documents[:1])).ids
    assert engine.tokenizer.decode(few).count("# Path: f0.py\nab = 1\n") == 1
    with pytest.raises(ContextTooLong):
        engine.chat([{"role": "user", "content": "x" * room}])


def test_documents_fit_though_their_tokens_do_not_add_up(
    code_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where texts take more tokens joined than one by one, documents are left out until the prompt fits;
    where none fits, the question goes alone, and a question too long is still an error."""
    tokenizer = loaded(code_llama)
    config = ModelConfig(32016, 8, 1, 1, 1, 8, 8, max_context=200)
    prompts = PromptBuilder("m", tokenizer, config, "inst")
    documents = tuple(Extra(f"{n}.py", "x = 1\n" * 6, priority=n) for n in range(6))
    request = ChatRequest((ChatMessage("user", "Why?"),), 8, documents=documents)
    exact = prompts.build(request)
    count = sum(packed.kept for packed in exact.packed)
    assert 1 < count < 6
    encode = tokenizer.encode
    # A stand-in for pieces that do not add up: each document in a longer text costs twenty tokens more.
    monkeypatch.setattr(
        tokenizer, "encode", lambda text: encode(text) + [5] * 20 * (text.count("# Path:") - 1)
    )
    loose = prompts.build(request)
    assert len(loose.ids) + 8 <= 200
    assert 0 < sum(packed.kept for packed in loose.packed) < count
    assert [p.kept for p in loose.packed] == sorted(p.kept for p in loose.packed), "by priority"
    monkeypatch.setattr(tokenizer, "encode", lambda text: encode(text) + [5] * 500 * text.count("# Path:"))
    assert not any(packed.kept for packed in prompts.build(request).packed)
    with pytest.raises(ContextTooLong):
        prompts.build(ChatRequest((ChatMessage("user", "why " * 300),), 8, documents=documents))


def test_a_converted_model_still_chats(chat_model: Path, tmp_path: Path) -> None:
    """The chat template goes with the model to GGUF and back, under a name that does not tell."""
    convert(chat_model, tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "folder")
    messages = [{"role": "user", "content": "Hi"}]
    expected = load_engine(str(chat_model), device="cpu").chat_ids(messages)
    for path in (tmp_path / "model.gguf", tmp_path / "folder"):
        assert load_engine(str(path), device="cpu").chat_ids(messages) == expected
