"""Scores against values known from elsewhere, and what must hold for every text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.assist.scores import edit_similarity, quantile, wilson


def test_wilson_intervals_are_the_published_ones() -> None:
    """Newcombe 1998, table I, method 3; and the ends of the scale."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_edit_similarity_is_symmetric_and_one_for_equals(one: str, other: str) -> None:
    """Between 0 and 1, the same both ways, and 1 only for the same text."""
    likeness = edit_similarity(one, other)
    assert 0 <= likeness <= 1
    assert likeness == edit_similarity(other, one)
    assert (likeness == 1) == (one == other)


def test_edit_similarity_counts_edits() -> None:
    """kitten to sitting takes three."""
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)


def test_quantiles() -> None:
    """The value that a share of the values does not exceed."""
    assert [quantile([3, 1, 2, 4], share) for share in (0.0, 0.5, 0.95)] == [1, 2, 4]
    assert quantile([], 0.5) == 0
