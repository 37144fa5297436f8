"""Several models in one server: by role and name, under one budget of memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runtime_support import write_classifier, write_encoder
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


def there(held: Models) -> set[str]:
    """Models of every kind that are in memory."""
    return {resident.name for resident in held._residents.all()}


def stored(folder: str) -> int:
    return (Path(folder) / "model.safetensors").stat().st_size


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


def test_an_embedding_model_in_memory_waits_for_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is not held up by the minutes that another model takes to load."""
    monkeypatch.setattr(serve_models, "EmbeddingModel", lambda name, device: SimpleNamespace(nbytes=0))
    held = models(0, {"completion": "pocket"})
    with held.encoder("mini") as model:
        pass
    found: list[EmbeddingModel] = []

    def ask() -> None:
        with held.encoder("mini") as again:
            found.append(again)

    with held._residents._load_lock:
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(10)
        assert found == [model]


def test_two_small_models_of_a_kind_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a folder is named it is one; of a third, the one that was used longest ago makes room, if it is
    not in use."""
    loads: list[str] = []

    def load(name: str, device: str) -> SimpleNamespace:
        loads.append(Path(name).name)
        return SimpleNamespace(nbytes=0)

    monkeypatch.setattr(serve_models, "EmbeddingModel", load)
    held = models(0, {"completion": "pocket"})

    def use(*names: str) -> None:
        for name in names:
            with held.encoder(f"{tmp_path}/{name}"):
                pass

    use("a", "b", "a", "b/../a", "c", "a", "b")
    assert loads == ["a", "b", "c", "b"]
    with held.encoder(f"{tmp_path}/a"):
        use("c", "d", "b", "a")
    assert loads[4:] == ["c", "d", "b"]
    assert len(held._residents.all()) == 2


def test_small_models_stand_in_the_same_budget(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Classifiers and embedding models are counted; of all kinds the longest unused goes, and none in use."""
    if find_spec("sentence_transformers") is None:
        pytest.skip("no sentence-transformers: pip install 'codellama[embeddings]'")
    chat, guard, encoder = str(folders[0]), str(tmp_path / "guard"), str(tmp_path / "encoder")
    write_classifier(Path(guard), "llama")
    write_encoder(Path(encoder))
    small = stored(guard)
    assert 0 < stored(encoder) <= small
    held = models(weights(folders[0]) + small, {"completion": chat})
    with held.using(chat), held.classifier(guard) as loaded:
        assert there(held) == {chat, guard}
        assert [r.nbytes for r in held._residents.all()] == [weights(folders[0]), loaded.nbytes]
        assert small * 0.9 < loaded.nbytes <= small
        with pytest.raises(ServerBusy, match="in use"), held.encoder(encoder):
            pass
    with held.encoder(encoder) as model:
        assert there(held) == {chat, encoder}  # the classifier was put down first
        assert small * 0.5 < model.nbytes <= stored(encoder)
    with held.using(chat):
        pass
    with held.classifier(guard), held.classifier(guard) as again:
        assert again is not loaded
        assert there(held) == {chat, guard}
    with held.using(str(folders[1])):
        assert there(held) == {str(folders[1]), guard}
    tight = models(small - 1, {"completion": chat})
    with (
        pytest.raises(CheckpointError, match=r"classifier .* set engine\.memory_gb, or"),
        tight.classifier(guard),
    ):
        pass


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
    """Before anything is read, with both numbers and what to do; nothing is ended for it."""
    first = str(folders[0])
    held = models(weights(folders[0]), {"completion": first})
    with held.using(first):
        pass
    assert weights(locate("pocket")) > weights(folders[0])
    with pytest.raises(CheckpointError, match=r"engine\.memory_gb"), held.using("pocket"):
        pass
    assert names(held) == {first}


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
