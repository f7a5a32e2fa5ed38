"""Run ten minutes of rollouts under load that are aborted, killed and undone, on a server that is killed sometimes.

    python -m tests.bench.rollout_soak embedded         --seconds 600, --rate 60 requests a second, --seed 1
    python -m tests.bench.rollout_soak native           the stand-in for TensorFlow Serving of tests/stand_in
    python -m tests.bench.rollout_soak native --canary  models.yaml has a label `canary`

Clients without a label, by `stable`, by version and of the canary send requests over gRPC and REST all the time. Each
response is checked by its value against what is due to its client at that time (tests/k8s/load.py). One rollout after
the other goes to a version that is higher or lower than the one before, or that doesn't load, or that ends the server.
At the beginning of a phase, or after a random time in it, the rollout may be killed (and resumed or undone by another
shell) or aborted, or its server killed. At the end the command prints what clients got, and exits with 1 if a response
was wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.exporting import export_scaled
from tests.k8s.followed import Followed
from tests.k8s.load import BY_STABLE, OF_CANARY, UNLABELLED, Load, by_version
from tests.k8s.rolled import MODELS, ROLLOUT, WITH_CANARY, Rolled, at_version_1, crashing, resealed
from tests.servers import STAND_IN, install

GOOD, BROKEN, ENDING = (1, 2, 3), 4, 5
KINDS = (UNLABELLED, BY_STABLE, *by_version(*GOOD), UNLABELLED, BY_STABLE, *OF_CANARY)
_MOST_TRIES = 20


@dataclass
class Soak:
    """One rollout after the other."""

    rolled: Rolled
    load: Load
    chance: random.Random
    ended: Counter[str] = field(default_factory=Counter)
    done_to_it: Counter[str] = field(default_factory=Counter)
    # Rollouts that ended otherwise than they had to.
    unexpected: list[str] = field(default_factory=list)

    def one(self) -> None:
        """A rollout to its end, whatever is done to it."""
        if self.chance.random() < 0.1:
            self._to_one_that_ends_the_server()
            return
        broken = self.chance.random() < 0.1
        others = [version for version in GOOD if version != self.load.stable]
        new = BROKEN if broken else self.chance.choice(others)
        words: tuple[str, ...] = ("start", f"scaled/{new}")
        if not broken and self.load.phase == "done" and self.chance.random() < 0.25:
            words = ("undo", "scaled")
            self.done_to_it["undo"] += 1
        likely = 0.0 if broken or self.chance.random() < 0.3 else 0.25
        disturbed, tries, over = False, 0, False
        while not over:
            tries += 1
            if tries > _MOST_TRIES:
                raise RuntimeError(f"no end after {tries} tries: {self.rolled.status()}")
            with self.rolled.following(*words) as rollout:
                disturbed |= self._through(rollout, likely)
            said, state = rollout.said, self.rolled.state
            # One that was killed may have come further than it was followed.
            self.load.enters(state)
            over = state.over
            words = ("start", "scaled")
            if disturbed and state.returnable and self.chance.random() < 0.25:
                words = ("abort", "scaled")
                self.done_to_it["abort of one that is left"] += 1
        self.ended[state.phase] += 1
        if state.phase != ("rolled-back" if broken else "done") and not disturbed:
            self.unexpected.append(f"to version {new}: {state.phase}: {state.reason}\n{said}")

    def _through(self, rollout: Followed, likely: float) -> bool:
        """Follows a rollout until it ends or is killed; whether it was disturbed: `likely` is how likely in a phase."""
        disturbed = False
        while (state := rollout.next()) is not None:
            self.load.enters(state)
            if state.over or self.chance.random() >= likely:
                rollout.go_on()
                continue
            disturbed = True
            if self.chance.random() < 0.7:
                rollout.go_on()
                time.sleep(1.5 * self.chance.random())
            what = self.chance.choice(("kill", "kill", "kill", "abort", "abort", "restart", "kill and restart"))
            self.done_to_it[f"{what} in {state.phase}"] += 1
            if "kill" in what:
                rollout.kill()
            if "restart" in what:
                self.restart()
            if "kill" in what:
                return True
            if what == "abort":
                # It may be too late for that by now.
                self.rolled.tries("abort", "scaled")
            rollout.go_on()
        return disturbed

    def restart(self) -> None:
        """Ends the server, with or without a drain, which lasts as long as clients send, and starts it again."""
        with self.load.down():
            if self.rolled.engine == "native" or self.chance.random() < 0.7:
                self.rolled.kill()
            else:
                self.rolled.stop()
            self._start()

    def _to_one_that_ends_the_server(self) -> None:
        with self.load.down():
            with self.rolled.following("start", f"scaled/{ENDING}") as rollout:
                rollout.until(None, self.load.enters)
            self.rolled.stop()
            self._start()
            with self.rolled.following("start", "scaled") as rollout:
                rollout.until(None, self.load.enters)
        self.ended["rolled-back"] += 1
        self.done_to_it["a version that ends the server"] += 1
        if self.rolled.phase != "rolled-back":
            self.unexpected.append(f"to one that ends the server: {self.rolled.status()}\n{rollout.said}")

    def _start(self) -> None:
        self.rolled.start((self.rolled.server.grpc_port, self.rolled.server.rest_port))


def soak(folder: Path, arguments: argparse.Namespace) -> Soak:
    """Rollouts until the time is over."""
    (folder / "models.yaml").write_text("models:\n  scaled:\n    builder: tests.scaled:build\n")
    export_scaled(folder / "models.yaml", GOOD)
    program = install(STAND_IN, folder / "bin") if arguments.engine == "native" else None
    with at_version_1(folder / "fleet", folder / "models/scaled", arguments.engine, program) as rolled:
        rolled.file.write_text((WITH_CANARY if arguments.canary else MODELS) + ROLLOUT)
        for version in GOOD:
            rolled.have(version)
        (rolled.have(2, at=BROKEN) / "saved_model.pb").write_bytes(b"\x08\x01broken")
        resealed(rolled.folder / f"models/scaled/{BROKEN}", "saved_model.pb")
        crashing(rolled.have(3, at=ENDING))
        canary = 1 if arguments.canary else None
        with rolled.load(rate=arguments.rate, kinds=KINDS, canary=canary) as load:
            made = Soak(rolled, load, random.Random(arguments.seed))  # noqa: S311 - no secret
            # It begins with what models.yaml says, whatever newer versions there are.
            made.restart()
            until = time.monotonic() + arguments.seconds
            while time.monotonic() < until:
                made.one()
                counts = f"{sum(load.counts.values())} responses, {len(load.failures)} wrong"
                print(f"{load.phase}, version {load.stable}: {counts}", file=sys.stderr, flush=True)
        return made


def report(made: Soak) -> None:
    """Prints what was done, and what clients got."""
    print(f"rollouts: {made.ended.total()} ({', '.join(f'{count} {how}' for how, count in made.ended.items())})")
    for what, count in sorted(made.done_to_it.items()):
        print(f"  {what:45} {count:6}")
    outcomes = sorted({outcome for _, _, outcome in made.load.counts}, key=lambda one: (isinstance(one, str), one))
    print(f"{'responses':34}" + "".join(f"{outcome!s:>18}" for outcome in outcomes))
    for kind in dict.fromkeys(made.load.kinds):
        for protocol in ("grpc", "rest"):
            counts = [made.load.counts[kind, protocol, outcome] for outcome in outcomes]
            print(f"  {kind!s:24} {protocol:6} " + "".join(f"{count:18}" for count in counts))
    print(f"all: {made.load.counts.total()}; wrong: {len(made.load.failures)}")
    for failure in made.load.failures[:20]:
        print(f"  {failure}")
    print(f"rollouts that ended otherwise than they had to: {len(made.unexpected)}")
    for one in made.unexpected[:5]:
        print(f"  {one}")


def main() -> int:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("embedded", "native"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--canary", action="store_true", help="models.yaml has a label `canary`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_STATE_HOME"] = f"{name}/state"
        made = soak(Path(name), arguments)
    report(made)
    return 1 if made.load.failures or made.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
