"""Choosing the next token: what may be chosen, and how likely it is said to be."""

import math

import torch

from codellama.runtime.records import Sampling
from codellama.runtime.sampling import Sampler

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def chosen(sampling: Sampling, allowed: list[int] | None = None) -> set[int]:
    sampler = Sampler(sampling, torch.device("cpu"))
    return {sampler.choose(LOGITS, allowed)[0] for _ in range(300)}


def test_top_p_keeps_what_the_reference_keeps() -> None:
    """A token is out where those before it make more than top_p: before the third there is 0.8."""
    assert chosen(Sampling(1.0, top_p=0.75, seed=1)) == {0, 1}
    assert chosen(Sampling(1.0, top_p=0.85, seed=1)) == {0, 1, 2}


def test_min_p_is_a_share_of_the_likeliest() -> None:
    """With a fifth, what has less than 0.1 is out; with nothing, all are in."""
    assert chosen(Sampling(1.0, min_p=0.2, seed=1)) == {0, 1, 2}
    assert chosen(Sampling(1.0, min_p=0.5, seed=1)) == {0, 1}
    assert chosen(Sampling(1.0, seed=1)) == {0, 1, 2, 3}


def test_only_the_allowed_are_chosen() -> None:
    """Greedy and sampled; the probability is one among the allowed."""
    assert chosen(Sampling(), [2, 3]) == {2}
    assert chosen(Sampling(1.0, seed=1), [2, 3]) == {2, 3}
    _, logprob = Sampler(Sampling(), torch.device("cpu")).choose(LOGITS, [2, 3])
    assert math.isclose(math.exp(logprob), 0.75, rel_tol=1e-5)


def test_what_is_barred_keeps_its_probability() -> None:
    """The likeliest of the rest is taken, and is as unlikely as the model thinks it."""
    for sampling in (Sampling(), Sampling(1.0, seed=3)):
        sampler = Sampler(sampling, torch.device("cpu"))
        best = int(LOGITS.argmax())
        token, logprob = sampler.choose(LOGITS, barred=(best,))
        assert token != best
        assert math.isclose(logprob, float(LOGITS.log_softmax(-1)[token]), rel_tol=1e-5)
