"""What is told of the published models: their sizes, what they need, where they lie."""

import os
import re
from pathlib import Path

import pytest
import torch
from conftest import Golden
from formats_support import make_llama, write_hugging_face

from codellama.runtime.cache import KVCache
from codellama.runtime.catalogue import KnownModel, known_models
from codellama.runtime.footprint import cache_bytes, weight_bytes
from codellama.runtime.inventory import local_models, missing
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer

PROJECT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- models: pytest --update writes this table -->", "<!-- models: end -->"

# Billions of parameters as their publishers tell them.
PUBLISHED = {
    "huggyllama/llama-7b": 6.7,
    "huggyllama/llama-13b": 13.0,
    "huggyllama/llama-30b": 32.5,
    "huggyllama/llama-65b": 65.2,
    "codellama/CodeLlama-34b-hf": 33.7,
    "meta-llama/Llama-2-70b-hf": 69.0,
    "meta-llama/Llama-3.1-8B": 8.03,
    "meta-llama/Llama-3.1-70B": 70.6,
    "meta-llama/Llama-3.1-405B": 405.9,
    "meta-llama/Llama-3.2-1B": 1.24,
    "meta-llama/Llama-3.2-3B": 3.21,
    "meta-llama/Llama-4-Scout-17B-16E": 107.8,
    "meta-llama/Llama-4-Maverick-17B-128E": 400.7,
}


def test_sizes_are_the_published_ones() -> None:
    """Shapes add up to the published number of parameters, and each model stands there once."""
    models = {model.name: model for model in known_models()}
    assert len(models) == len(known_models()) == 41
    for name, billions in PUBLISHED.items():
        assert models[name].shape.parameters / 1e9 == pytest.approx(billions, rel=0.006), name


def test_memory_is_what_a_model_takes(tmp_path: Path) -> None:
    """The formulas give the bytes of a loaded model's weights and of its cache."""
    folder = write_hugging_face(tmp_path, make_llama())
    checkpoint = open_checkpoint(folder)
    for precision, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        model = load_transformer(checkpoint, torch.device("cpu"), dtype)
        taken = sum(parameter.nbytes for parameter in model.parameters())
        assert taken == weight_bytes(checkpoint.config, precision)  # type: ignore[arg-type]
        cache = KVCache(checkpoint.config, 640, torch.device("cpu"), dtype)
        assert cache.keys.nbytes + cache.values.nbytes == cache_bytes(checkpoint.config, 640, dtype.itemsize)
    code_llama = next(m for m in known_models() if m.name == "codellama/CodeLlama-7b-hf")
    assert round(weight_bytes(code_llama.shape, "bf16") / 1e9, 1) == 13.5
    assert round(cache_bytes(code_llama.shape, 100_000) / 1e9, 1) == 52.4


def test_the_page_tells_of_every_model(golden: Golden) -> None:
    """docs/models.md has each model with its size, memory and abilities, and names tests that exist."""
    page = (PROJECT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    head, rest = page.split(BEGIN)
    golden.check("../../docs/models.md", f"{head}{BEGIN}\n{table()}{END}{rest.split(END)[1]}")
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page))
    assert named
    for file, test in named:
        assert f"def {test}" in (PROJECT / file).read_text(encoding="utf-8"), (file, test)


def table() -> str:
    lines = [
        "| model | parameters | f32 | bf16 | q8_0 | q4_0 | context | its keys and values | per 1,000 tokens "
        "| infills | chats |",
        "| --- " + "| ---: " * 8 + "| --- | --- |",
        *(row(model) for model in known_models()),
    ]
    return "\n".join(lines) + "\n"


def row(model: KnownModel) -> str:
    shape = model.shape
    sizes = (f"{weight_bytes(shape, p) / 1e9:,.1f}" for p in ("f32", "bf16", "q8_0", "q4_0"))  # type: ignore[arg-type]
    cells = [
        f"`{model.name}`",
        f"{shape.parameters / 1e9:.2f} B",
        *sizes,
        f"{shape.max_context:,}",
        f"{cache_bytes(shape, shape.max_context) / 1e9:,.1f}",
        f"{cache_bytes(shape, 1000) / 1e9:.3f}",
        {"yes": "yes", "unsure": "if asked", "no": "no"}[model.infill],
        "yes" if model.chat else "no",
    ]
    return f"| {' | '.join(cells)} |"


def test_models_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's models and those of the hub's cache are found; what is damaged is told; nothing else is."""
    hub, folder = tmp_path / "hub", tmp_path / "models"
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    snapshot = hub / "models--codellama--CodeLlama-7b-hf" / "snapshots" / "abc"
    write_hugging_face(snapshot, make_llama())
    older = write_hugging_face(snapshot.parent / "older", make_llama())
    os.utime(older, (0, 0))
    write_hugging_face(folder / "mine", make_llama())
    (folder / "notes").mkdir()
    (folder / "bad.gguf").write_bytes(b"GGUF")
    warnings: list[str] = []
    found = list(local_models(folder, warnings.append))
    assert [(model.name, model.path) for model in found[1:]] == [
        (str(folder / "mine"), folder / "mine"),
        ("codellama/CodeLlama-7b-hf", snapshot),
    ]
    assert found[0].name == "pocket"
    assert found[0].infill == "yes"
    assert len(warnings) == 1
    assert "bad.gguf" in warnings[0]
    left = {model.name for model in missing(known_models(), found)}
    assert left == {model.name for model in known_models()} - {"codellama/CodeLlama-7b-hf"}
