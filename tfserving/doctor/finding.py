"""What one check found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# A missing thing is an option that this machine doesn't have; a problem is something to repair.
State = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    `hint` has what a missing thing is for and how to get it, or how to repair a problem. `data` has the values for
    --json, numbers with their units in the names.
    """

    name: str
    state: State
    found: str
    hint: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[], Finding]


def run_checks(checks: Mapping[str, Check], seconds: float) -> dict[str, Finding]:
    """Run all `checks` in parallel; return their findings, in order.

    One that takes longer than `seconds` is a problem, and so is one that fails: no check ends the command.
    """
    found: dict[str, Finding] = {}

    def run(name: str, check: Check) -> None:
        try:
            found[name] = check()
        except Exception as error:
            found[name] = Finding(name, "problem", f"the check failed: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no result within {seconds:g} s"
    return {name: found.get(name) or Finding(name, "problem", late) for name in checks}
