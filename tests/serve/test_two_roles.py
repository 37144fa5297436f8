"""Several models in one server: by role and name, under one budget of memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tokenizer_support import write_llama3_chat

from codellama.runtime.embedding import EmbeddingModel
from codellama.runtime.errors import CheckpointError, ServerBusy, UnknownModel
from codellama.runtime.footprint import weight_bytes
from codellama.runtime.locate import locate
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.serve import models as serve_models
from codellama.serve.models import Loading, Models


def weights(folder: Path) -> int:
    return weight_bytes(open_checkpoint(folder).config, "f32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tuple(tmp_path_factory.mktemp(name) for name in ("chat-a", "chat-b"))
    for folder in made:
        write_llama3_chat(folder)
    return made[0], made[1]


def models(budget: int, roles: dict[str, str], only_roles: bool = False) -> Models:
    return Models(Loading("cpu", "float32", "none", memory_bytes=budget), roles, only_roles)


def names(held: Models) -> set[str]:
    return {info.name for info in held.infos()}


def test_a_request_means_the_model_of_its_role(folders: tuple[Path, Path]) -> None:
    """Without a name, or by the role's; any other name is a model's own."""
    both = models(0, {"completion": "pocket", "chat": str(folders[0])})
    assert [both.name(asked, "chat") for asked in ("", "chat", "completion", "x")] == [
        *(str(folders[0]), str(folders[0]), "pocket", "x")
    ]
    assert models(0, {"completion": "pocket"}).name("", "chat") == "pocket"
    with both.using("pocket"), both.using(str(folders[0])):
        assert {info.name: info.role for info in both.infos()} == {
            "pocket": "completion",
            str(folders[0]): "chat",
        }


def test_an_embedding_model_in_memory_waits_for_no_load() -> None:
    """A question is not held up by the minutes that another model takes to load."""
    held = models(0, {"completion": "pocket"})
    held._encoders["mini"] = model = object.__new__(EmbeddingModel)
    found: list[EmbeddingModel] = []
    with held._load_lock:
        asking = threading.Thread(target=lambda: found.append(held.encoder("mini")))
        asking.start()
        asking.join(10)
        assert found == [model]


def test_two_small_models_of_a_kind_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a folder is named it is one; of a third, the one that was used longest ago makes room."""
    loads: list[str] = []

    def load(name: str) -> EmbeddingModel:
        loads.append(Path(name).name)
        return object.__new__(EmbeddingModel)

    monkeypatch.setattr(serve_models, "EmbeddingModel", load)
    held = models(0, {"completion": "pocket"})
    for name in ("a", "b", "a", "b/../a", "c", "a", "b"):
        held.encoder(f"{tmp_path}/{name}")
    assert loads == ["a", "b", "c", "b"]
    assert len(held._encoders) == 2


def test_idle_models_make_room(folders: tuple[Path, Path]) -> None:
    """The longest unused goes first, and comes back when it is wanted; those in use stay."""
    first, second = map(str, folders)
    pocket = weights(locate("pocket"))
    held = models(pocket + weights(folders[0]) + 1, {"completion": "pocket"})
    with held.using("pocket") as engine, held.using(first):
        assert names(held) == {"pocket", first}
    with held.using("pocket") as again:
        assert again is engine  # nothing is loaded twice
    with held.using(second):
        assert names(held) == {"pocket", second}
    with held.using("pocket"):
        pass
    with held.using(first):
        assert names(held) == {"pocket", first}


def test_models_in_use_are_waited_for(folders: tuple[Path, Path]) -> None:
    first, second = map(str, folders)
    held = models(weights(folders[0]) + 1, {"completion": first})
    with held.using(first), pytest.raises(ServerBusy, match="in use"), held.using(second):
        pass
    with held.using(second):
        assert names(held) == {second}


def test_a_model_beyond_the_budget_is_refused(folders: tuple[Path, Path]) -> None:
    """Before anything is read, with both numbers and what to do."""
    first = str(folders[0])
    held = models(weights(folders[0]) - 1, {"completion": first})
    with pytest.raises(CheckpointError, match=r"engine\.memory_gb"), held.using(first):
        pass
    assert names(held) == set()


def test_a_load_keeps_nobody_waiting(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one model loads, those in memory are used; who wants the one that loads gets that one."""
    held = models(0, {"completion": "pocket"})
    with held.using("pocket"):
        pass
    began, may_end = threading.Event(), threading.Event()
    load = serve_models.load_engine

    def slow(*arguments: Any, **named: Any) -> Any:
        began.set()
        assert may_end.wait(60)
        return load(*arguments, **named)

    def use() -> Any:
        with held.using(str(folders[0])) as engine:
            return engine

    monkeypatch.setattr(serve_models, "load_engine", slow)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(use) for _ in range(2)]
        assert began.wait(60)
        with held.using("pocket") as engine:  # would hang if the load held it up
            assert engine.name == "pocket"
        may_end.set()
        assert both[0].result(60) is both[1].result(60)


def test_two_names_of_a_folder_are_one_model(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = models(0, {"completion": "pocket"})
    monkeypatch.chdir(folders[0].parent)
    with held.using(str(folders[0])) as by_path, held.using(f"./{folders[0].name}") as by_name:
        assert by_path is by_name
    assert len(held.infos()) == 1


def test_a_shared_server_has_its_roles_models_only(folders: tuple[Path, Path]) -> None:
    held = models(0, {"completion": "pocket"}, only_roles=True)
    with pytest.raises(UnknownModel), held.using(str(folders[0])):
        pass
    with held.using("pocket"):
        pass
