"""Suggestions for mistyped words."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# 0 to 1. Below this, words are more different than a slip of the hand makes them.
_LIKENESS = 0.7


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like `word`; None when none is like it."""
    found = get_close_matches(word, list(choices), n=1, cutoff=_LIKENESS)
    return found[0] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'digits'?", to append to an error; "" when no choice is like `word`."""
    found = closest(word, choices)
    return "" if found is None else f" Did you mean {found!r}?"
