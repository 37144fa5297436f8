"""`codellama_lsp.settings`: whatever an editor sends, there are settings and no exception."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_cli import config, repository
from codellama_lsp import engine
from codellama_lsp.settings import (
    ChatSettings,
    CompletionSettings,
    EngineSettings,
    Settings,
    read,
    without_strangers,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = ["codellama", "completion", "engine", "index", "enabled", "model", "max_tokens", "idle_minutes"]
options = st.recursive(
    json_values,
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=8,
)


def test_options_may_stand_under_codellama_or_alone() -> None:
    """Neovim sends settings under their name, initializationOptions mostly come bare."""
    wanted = Settings(completion=CompletionSettings(max_tokens=24))
    bare = {"completion": {"max_tokens": 24}}
    assert read(bare, Settings()) == (wanted, ())
    assert read({"codellama": bare}, Settings()) == (wanted, ())


def test_no_options_are_the_base() -> None:
    """A client without options sends null or nothing in it."""
    base = Settings(completion=CompletionSettings(model="other"))
    assert read(None, base) == (base, ())
    assert read({}, base) == (base, ())


def test_what_is_left_out_keeps_its_value() -> None:
    """Options are laid over the base, group by group."""
    base = Settings(completion=CompletionSettings(model="other"))
    settings, problems = read({"completion": {"enabled": False}}, base)
    assert settings.completion == CompletionSettings(enabled=False, model="other")
    assert not problems


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"completion": {"max_tokens": "many"}}, "codellama.completion.max_tokens must be a whole"),
        ({"completion": {"max_tokens": -1}}, "codellama.completion.max_tokens must be a whole"),
        ({"completion": {"max_tokens": True}}, "codellama.completion.max_tokens must be a whole"),
        ({"completion": {"enabled": "yes"}}, "codellama.completion.enabled must be true or false"),
        ({"completion": {"model": ""}}, "codellama.completion.model must be a text"),
        ({"engine": {"idle_minutes": float("nan")}}, "codellama.engine.idle_minutes must be"),
        ({"completion": 3}, "codellama.completion must be a table"),
        ({"colour": "red"}, "codellama.colour is no setting (there are chat, completion, engine, index"),
        ({"completion": {"off_languages": "go"}}, "codellama.completion.off_languages must be a list"),
        ({"navigation": {"off_languages": [1]}}, "codellama.navigation.off_languages must be a list"),
        ([1], "codellama must be a table"),
    ],
)
def test_a_wrong_value_is_named_and_ignored(sent: object, said: str) -> None:
    """One sentence names the setting, the rest of the settings stand."""
    settings, problems = read(sent, Settings())
    assert settings == Settings()
    assert len(problems) == 1
    assert problems[0].startswith(said)


def test_the_configuration_file_reaches_the_model_server() -> None:
    """What it says of completions, conversations, engine and index is an editor's setting too; both lead to
    the same model server, or to the same requests of another."""
    changed = {
        key: value + 1 if type(value) in (int, float) else value if isinstance(value, bool) else f"./my-{key}"
        for key, value in config.DEFAULTS.items()
    }
    loaded = config.load(None, changed)
    options: dict[str, dict[str, object]] = {}
    for key, value in loaded.values.items():
        group, _, name = key.partition(".")
        if group in ("completion", "chat", "engine", "index"):
            options.setdefault(group, {})[name] = value
    settings, problems = read(options, Settings())
    assert not problems
    for model in (settings.completion.model, settings.chat.model):
        assert engine.serve_settings(settings, model) == repository.serve_settings(loaded, model)
    assert read({"engine": {"key_file": ""}}, settings)[0].engine.key_file == ""


OWN = Settings(
    CompletionSettings(model="http://gpu.example:8000/v1"),
    ChatSettings(model="https://team.example/v1"),
    engine=EngineSettings(key_file="~/key"),
)


@pytest.mark.parametrize(
    ("group", "name", "value", "kept"),
    [
        ("completion", "model", "https://stranger.example/v1", False),
        ("completion", "model", "http://127.0.0.1@stranger.example", False),
        ("completion", "model", "http://stranger.example\\@127.0.0.1", False),
        ("completion", "model", "http://localhost.stranger.example", False),
        ("completion", "model", "http://[::", False),
        ("chat", "model", "http://192.168.0.7:8000", False),
        ("engine", "key_file", "~/.ssh/id_ed25519", False),
        ("completion", "model", "http://127.0.0.1:8080/v1", True),
        ("completion", "model", "http://[::1]:8080", True),
        ("chat", "model", "http://localhost:11434/v1", True),
        ("completion", "model", "https://team.example/v1", True),
        ("chat", "model", "./instruct", True),
        ("engine", "key_file", "", True),
    ],
)
def test_a_repositorys_settings_name_no_server(group: str, name: str, value: str, kept: bool) -> None:
    """What an editor sends later may come out of a cloned repository: a URL counts where it is this machine's
    or the person named it; the refusal says where to set it."""
    sent, _ = read({group: {name: value}}, OWN)
    settings, problems = without_strangers(sent, OWN)
    assert getattr(getattr(settings, group), name) == (value if kept else getattr(getattr(OWN, group), name))
    assert [problem.startswith(f"codellama.{group}.{name} is not changed") for problem in problems] == (
        [] if kept else [True]
    )


def test_whole_floats_are_whole_numbers() -> None:
    """Some clients send 24.0 for 24; it arrives as an int."""
    settings, problems = read({"completion": {"max_tokens": 24.0}}, Settings())
    assert not problems
    assert repr(settings.completion.max_tokens) == "24"


@given(options)
def test_nothing_breaks_the_server(sent: object) -> None:
    """Any JSON gives settings of the right types."""
    settings, _ = read(sent, Settings())
    for group in dataclasses.fields(Settings):
        values, defaults = getattr(settings, group.name), getattr(Settings(), group.name)
        for each in dataclasses.fields(values):
            assert type(getattr(values, each.name)) is type(getattr(defaults, each.name))
