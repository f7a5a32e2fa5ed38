"""Ten minutes of rollouts under load that are aborted, killed and undone, on a server that is killed now and then, too.

    python -m tests.bench.rollout_soak embedded         --seconds 600, --rate 60 requests a second, --seed 1
    python -m tests.bench.rollout_soak native           the stand-in for TensorFlow Serving of tests/stand_in
    python -m tests.bench.rollout_soak native --canary  models.yaml has a label `canary`

Clients without a label, by `stable`, by version and of the canary send requests over gRPC and REST all the time. Each
response is checked by its value against what is due to its client at that time (tests/k8s/load.py). One rollout after
the other goes to a version that is higher or lower than the one before, or that doesn't load, or that ends the server.
Wherever a phase begins, or after a random time within it, the rollout may be killed (and gone on with, or taken back,
by another shell), aborted, or have its server killed. In the end it prints what clients got, and exits with 1 where an
answer was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.exporting import export_scaled
from tests.k8s.followed import Followed
from tests.k8s.load import BY_STABLE, OF_CANARY, UNLABELLED, Load, by_version
from tests.k8s.rolled import MODELS, WITH_CANARY, Rolled, at_version_1, crashing, resealed
from tests.servers import STAND_IN, install
from tfserving.serving.models_yaml.fleet import CANARY, read_fleet
from tfserving.serving.models_yaml.rollout import Rollout

GOOD, BROKEN, ENDING = (1, 2, 3), 4, 5
# Short enough for many rollouts, and sure of what is so much slower.
ROLLOUT = "rollout: {window: 0.5, bake: 0.5, longest: 20, latency: 8, slack_ms: 100, probe: 20}\n"
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
    # Rollouts to good versions that nothing was done to, and that didn't get there.
    unexpected: list[str] = field(default_factory=list)

    def one(self) -> None:
        """A rollout to its end, whatever is done to it."""
        broken = self.chance.random() < 0.15
        new = (
            self.chance.choice((BROKEN, ENDING))
            if broken
            else self.chance.choice([version for version in GOOD if version != self.load.stable])
        )
        words: tuple[str, ...] = ("start", "scaled", str(new))
        if self.rolled.phase == "done" and self.chance.random() < 0.2:
            words, broken = ("undo", "scaled"), False
            self.done_to_it["undo"] += 1
        quiet = broken or self.chance.random() < 0.25
        disturbed, tries = False, 0
        while not tries or not self.load.over:
            tries += 1
            if tries > _MOST_TRIES:
                raise RuntimeError(f"no end after {tries} tries: {self.rolled.status()}")
            with self.rolled.following(*words) as rollout:
                disturbed |= self._through(rollout, 0.0 if quiet else 0.25)
            if not self._server_is_up():
                self.done_to_it["the version ended the server"] += 1
                self._start()
            back = not quiet and self.load.returnable and self.chance.random() < 0.25
            words = ("abort", "scaled") if back else ("start", "scaled")
            disturbed |= back
        self.ended[self.load.phase] += 1
        if not broken and not disturbed and self.load.phase != "done":
            self.unexpected.append(f"version {new}: {self.rolled.status()['reason']}")

    def _through(self, rollout: Followed, likely: float) -> bool:
        """Follows a rollout until it ends, or is killed; whether anything was done to it, which is so `likely` a phase."""
        disturbed = False
        while (state := rollout.next()) is not None:
            ended = not self._server_is_up()
            with self.load.down() if ended else contextlib.nullcontext():
                pass
            self.load.enters(state)
            if state.over or self.chance.random() >= likely:
                rollout.go_on()
                continue
            disturbed = True
            midway = self.chance.random() < 0.7
            if midway:
                rollout.go_on()
                time.sleep(self.chance.random() * 1.5)
            what = self.chance.choice(("kill", "kill", "abort", "server", "both"))
            self.done_to_it[f"{what} in {state.phase}"] += 1
            if what in ("kill", "both"):
                rollout.kill()
            if what in ("server", "both"):
                self.restart()
            if what in ("kill", "both"):
                return True
            if what == "abort" and state.returnable:
                # It may be too late by now.
                self.rolled.tries("abort", "scaled")
            rollout.go_on()
        return disturbed

    def restart(self) -> None:
        """Ends the server, with or without a drain, and starts it again."""
        with self.load.down():
            if self.chance.random() < 0.7:
                self.rolled.kill()
            else:
                self.rolled.stop()
            self.rolled.start((self.rolled.server.grpc_port, self.rolled.server.rest_port))
