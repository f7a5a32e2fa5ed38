"""The steps of a change: whatever order a server loads and unloads in, clients get nothing that isn't due."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tfserving.serving.served import Served
from tfserving.serving.steps import Step, steps

NUMBERS = (1, 2, 3, 4)
SUBSETS = [some for count in (1, 2, 3) for some in combinations(NUMBERS, count)]


def one(*versions: int, name: str = "m", newest: bool = False, **labels: int) -> Served:
    return Served(name, "m", versions, labels, newest)


def shown(made: list[Step]) -> list[str]:
    """What is served after each step, as `m: 1 2 stable=1`."""
    return [
        ", ".join(
            f"{served.name}: {' '.join(map(str, served.versions))}"
            + "".join(f" {label}={version}" for label, version in served.labels.items())
            for served in step.served
        )
        for step in made
    ]


def loaded_meanwhile(before: tuple[int, ...], after: tuple[int, ...]) -> list[set[int]]:
    """All that may be loaded on the way: what stays, and any of the others, in whatever order they come and go.

    A server unloads when what it is to have is loaded.
    """
    stay = {*before} & {*after}
    coming, going = {*after} - stay, {*before} - stay
    found = [stay | going | {*some} for count in range(len(coming) + 1) for some in combinations(coming, count)]
    found += [stay | coming | {*some} for count in range(len(going) + 1) for some in combinations(going, count)]
    return found


@pytest.mark.parametrize("old", SUBSETS)
def test_clients_get_the_newest_of_before_or_the_newest_of_after(old: tuple[int, ...]) -> None:
    for new in SUBSETS:
        served = old
        for step in steps([one(*old)], [one(*new)]):
            (now,) = step.served
            for loaded in loaded_meanwhile(served, now.versions):
                assert max(loaded) in (max(old), max(new)), (old, new, loaded)
            served = now.versions
        assert served == new


def test_a_label_only_moves_to_what_is_loaded_and_its_version_leaves_after_that() -> None:
    for old, new in product(SUBSETS, repeat=2):
        for was, goal in product(old, new):
            last = one(*old, stable=was)
            for step in steps([last], [one(*new, stable=goal)]):
                (now,) = step.served
                if now.labels["stable"] != last.labels["stable"]:
                    assert now.labels["stable"] in last.versions
                assert last.labels["stable"] in now.versions
                last = now
            assert last == one(*new, stable=goal)


@pytest.mark.parametrize(
    ("before", "wanted", "way"),
    [
        ([one(1, stable=1)], [one(2, stable=2)], ["m: 1 2 stable=1", "m: 1 2 stable=2", "m: 2 stable=2"]),
        # Nothing but a label changes.
        ([one(1, 2, a=1)], [one(1, 2, a=2)], ["m: 1 2 a=2"]),
        ([one(3)], [one(1, 3, live=1)], ["m: 1 3", "m: 1 3 live=1"]),
        ([one(3)], [one(3)], ["m: 3"]),
        # Version 2 could be the newest before 3 is loaded.
        ([one(1)], [one(2, 3)], ["m: 1 3", "m: 1 2 3", "m: 2 3"]),
        ([one(2, 3)], [one(1)], ["m: 1 2 3", "m: 1 3", "m: 1"]),
        # A canary comes with its label, moves when its version is loaded, and goes at last.
        (
            [one(1, stable=1)],
            [one(1, stable=1), one(2, name="m-canary", canary=2)],
            ["m: 1 stable=1, m-canary: 2 canary=2"],
        ),
        (
            [one(1, stable=1), one(2, name="m-canary", canary=2)],
            [one(1, stable=1), one(3, name="m-canary", canary=3)],
            [
                "m: 1 stable=1, m-canary: 2 3 canary=2",
                "m: 1 stable=1, m-canary: 2 3 canary=3",
                "m: 1 stable=1, m-canary: 3 canary=3",
            ],
        ),
        (
            [one(1, stable=1), one(2, name="m-canary", canary=2)],
            [one(2, stable=2)],
            [
                "m: 1 2 stable=1, m-canary: 2 canary=2",
                "m: 1 2 stable=2, m-canary: 2 canary=2",
                "m: 2 stable=2",
            ],
        ),
        # A label whose version isn't loaded, for it failed, is no label.
        ([one(1, stable=1, gone=9)], [one(1, stable=1)], ["m: 1 stable=1"]),
    ],
)
def test_the_steps_are_as_few_as_can_be(before: list[Served], wanted: list[Served], way: list[str]) -> None:
    made = steps(before, wanted)
    assert shown(made) == way
    assert made[-1].served == tuple(wanted)


def test_a_server_that_chooses_the_newest_itself_goes_on_to_do_that() -> None:
    (step,) = steps([one(3, newest=True)], [one(1, 2, 4, newest=True)])
    assert step.served == (one(1, 2, 4, newest=True),)
    # One that doesn't any more is given what it has before anything else.
    first, last = steps([one(4, newest=True)], [one(2, stable=2)])
    assert first.served == (one(2, 4),)
    assert last.served == (one(2, stable=2),)
