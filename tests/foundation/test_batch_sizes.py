from __future__ import annotations

import pytest

from tfserving.foundation.batch_sizes import powers_of_two


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (48, (1, 2, 4, 8, 16, 32, 48))],
)
def test_the_sizes_are_powers_of_two_and_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert powers_of_two(largest) == sizes


def test_a_largest_size_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="the largest batch size is 0; it must be at least 1"):
        powers_of_two(0)
