"""Held-out loss is transformers' own, at every position, whatever the blocks it is computed in."""

from pathlib import Path

import pytest
import torch
from family_support import write_family

from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer
from codellama.training import held_out
from codellama.training.corpus import SourceFile


def test_losses_are_the_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 positions over a text of 40: as transformers computes them in one."""
    monkeypatch.setattr(held_out, "_BLOCK", 7)
    reference = write_family(tmp_path, "code-llama-7b")
    model = load_transformer(open_checkpoint(tmp_path), torch.device("cpu"), torch.float32)
    ids = list(range(40, 80))
    with torch.inference_mode():
        logits = reference(torch.tensor([ids])).logits[0, :-1]
    expected = -logits.log_softmax(-1)[torch.arange(39), torch.tensor(ids[1:])]
    torch.testing.assert_close(held_out.losses(model, ids), expected, atol=1e-4, rtol=0)


def test_packages_are_joined(tmp_path: Path) -> None:
    """One text a package, of the length asked for; a package that is shorter is left out."""
    write_family(tmp_path, "code-llama-7b")
    tokenizer = load_tokenizer(tmp_path)
    files = [SourceFile("a", "1", "x" * 30), SourceFile("b", "1", "y"), SourceFile("a", "2", "z" * 30)]
    (ids,) = held_out.sequences(files, tokenizer, 50)
    assert len(ids) == 51
    assert tokenizer.decode(ids[1:]) == "x" * 30 + "z" * 20


def test_means_between_bounds() -> None:
    """Positions are counted from the first that is told."""
    found = torch.arange(600.0).expand(2, 600)
    assert held_out.by_position(found) == {"0-512": 255.5, "512-1024": 555.5}
