"""A whole run in little: train, stop, go on, export, load."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from codellama.runtime import load_engine, load_tokenizer
from codellama.runtime.model import Transformer
from codellama.training import ablate, train
from codellama.training.corpus import SourceFile, write
from codellama.training.export import export
from codellama.training.muon import Muon
from codellama.training.recipe import Recipe, set_rates
from codellama.training.samples import Sources
from codellama.training.tokenizer import train_ranks, write_ranks

FILES = [
    SourceFile("p", f"m{n}.py", "".join(f"def f{k}(a):\n    return a + {k * n}\n\n\n" for k in range(40)))
    for n in range(4)
]
RECIPE = Recipe(
    minutes=20,
    pieces=300,
    dim=32,
    layers=1,
    heads=2,
    kv_heads=1,
    ffn=64,
    length=128,
    rows=1,
    long_length=256,
    muon_rate=0.01,
)
WITHIN = train.Material(Sources(FILES[:3]), Sources(FILES[3:]), 0, train.loss_function(False))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a tokenizer, and a clock that goes on 13 s with every look at it."""
    now = iter(range(0, 10**9, 13))
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_ranks(train_ranks((file.text for file in FILES), RECIPE.pieces), tmp_path / "tokenizer.model")
    return tmp_path


def _run(out: Path, recipe: Recipe = RECIPE) -> Transformer:
    tokenizer = load_tokenizer(out / "tokenizer.model")
    model = train.started(recipe, tokenizer, None, torch.device("cpu"))
    return train.train(recipe, model, tokenizer, WITHIN, out)


def _last_row(out: Path) -> tuple[int, float]:
    """Step and held-out loss at the end of the latest run."""
    with (out / "loss.csv").open(newline="") as file:
        row = list(csv.reader(file))[-1]
    return int(row[0]), float(row[-2])


def test_a_run_learns_and_is_resumed(out: Path) -> None:
    """Loss falls, a checkpoint appears, and the next run goes on from its step, time and weights."""
    _run(out)
    steps, loss = _last_row(out)
    assert 20 < steps < 60
    assert loss < 5.5, "no better than chance over 306 pieces"
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["step"] == steps
    assert 1200 <= saved["spent"] < 1400
    untouched = _run(out)
    for name, weight in untouched.state_dict().items():
        assert torch.equal(weight, saved["model"][name]), name
    assert _last_row(out)[0] == steps
    _run(out, replace(RECIPE, minutes=30))
    assert steps < _last_row(out)[0] < 2 * steps


def test_the_export_is_a_checkpoint_of_the_runtime(out: Path) -> None:
    """The exported folder loads as any other and computes what the trained model does."""
    model = _run(out)
    export(model, out / "tokenizer.model", out / "model")
    engine = load_engine(str(out / "model"), device="cpu")
    assert engine.config.can_infill
    assert engine.config.family == "pocket"
    ids = engine.tokenizer.encode(FILES[0].text)[:50]
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].float()
    torch.testing.assert_close(engine.logits(ids), expected, atol=0.05, rtol=0.01)
    assert engine.infill("def f1(a):\n    return ", "\n", max_tokens=4).stats.tokens <= 4


def test_ranks_are_bytes_then_merges_and_round_trip(out: Path) -> None:
    """The tokenizer learned has the size asked for, its control tokens behind, and loses nothing."""
    tokenizer = load_tokenizer(out / "tokenizer.model")
    assert tokenizer.vocab_size == RECIPE.pieces + 6
    assert len(tokenizer.encode(FILES[0].text)) < len(FILES[0].text) / 2
    for text in (FILES[0].text, "é☺ \x00\t"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    """By the clock: low at first, full in the middle, nothing at the end."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    rates = []
    for progress in (0.0, 0.3, 0.9, 1.0, 1.1):
        set_rates(RECIPE, [optimizer], progress)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] < 0.05
    assert rates[1] == 1.0
    assert 0 < rates[2] < 1
    assert rates[3:] == [0.0, 0.0]


def test_trials_of_one_shape_start_alike_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two trials by the command line: each has its line, and another rate another loss."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    now = iter(range(0, 10**9, 1))
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(ablate, "time", SimpleNamespace(monotonic=lambda: next(now)))
    write(FILES[:3], tmp_path / "corpus.jsonl.xz")
    write(FILES[3:], tmp_path / "held-out.jsonl.xz")
    write_ranks(train_ranks((file.text for file in FILES), RECIPE.pieces), tmp_path / "tokenizer.model")
    small = (
        "dim=32",
        "layers=1",
        "heads=2",
        "kv_heads=1",
        "ffn=64",
        "length=128",
        "rows=1",
        "long_length=256",
    )
    line = ["ablate", "--corpus", str(tmp_path / "corpus.jsonl.xz"), "--out", str(tmp_path), "--no-compile"]
    line += ["--tokenizer", str(tmp_path / "tokenizer.model"), "--seconds", "40", "--set", "every=1"]
    line += [part for setting in small for part in ("--set", setting)]
    trials = ("", "muon_rate=0.0001,adam_rate=0.0001", "")
    monkeypatch.setattr("sys.argv", line + [part for trial in trials for part in ("--try", trial)])
    ablate.main()
    told = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert told == [json.loads(row) for row in (tmp_path / "ablations.jsonl").read_text().splitlines()]
    assert [row["trial"] for row in told] == list(trials)
    assert told[0]["held_out"] == told[2]["held_out"] < told[1]["held_out"] - 0.1


def test_muon_moves_as_torchs_does() -> None:
    """Five updates of matrices of three shapes, tall, wide and square, end where torch's own ends."""
    torch.manual_seed(0)
    starts = [torch.randn(*shape) for shape in ((8, 8), (24, 8), (8, 20), (24, 8), (8, 8))]
    ours = [torch.nn.Parameter(start.clone()) for start in starts]
    theirs = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizers = (
        Muon(ours, lr=0.1, weight_decay=0.01, steps=4),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, ns_steps=4, adjust_lr_fn="original"),
    )
    for _ in range(5):
        gradients = [torch.randn_like(start) for start in starts]
        for weights, optimizer in zip((ours, theirs), optimizers, strict=True):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
    for one, other, start in zip(ours, theirs, starts, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)
        assert (one - start).abs().max() > 0.1
