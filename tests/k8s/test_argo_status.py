"""What the status of a Rollout comes to, with the fields that the controller writes."""

from __future__ import annotations

from typing import Any

import pytest

from tfserving.k8s.argo_status import progress_of

STEPS = [{"experiment": {}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}, {"setWeight": 100}, {"pause": {}}]


def rollout(step: int | None, phase: str, message: str = "", reason: str = "", seen: str = "3") -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase, "message": message, "observedGeneration": seen, "availableReplicas": 1}
    if step is not None:
        status["currentStepIndex"] = step
    if reason:
        status["pauseConditions"] = [{"reason": reason, "startTime": "2026-01-01T00:00:00Z"}]
    spec = {"replicas": 2, "strategy": {"canary": {"steps": STEPS}}}
    return {"metadata": {"generation": 3}, "spec": spec, "status": status}


@pytest.mark.parametrize(
    ("found", "said", "waits"),
    [
        (rollout(0, "Progressing", "more replicas need to be updated"), "step 1 of 5", False),
        (rollout(2, "Paused", "CanaryPauseStep", "CanaryPauseStep"), "step 3 of 5, 50 % of the pods are new", False),
        # Without a time, and without figures, a person continues it.
        (rollout(4, "Paused", "CanaryPauseStep", "CanaryPauseStep"), "step 5 of 5, 100 % of the pods are new", True),
        (
            rollout(2, "Paused", "", "InconclusiveAnalysisRun"),
            "step 3 of 5, 50 % of the pods are new",
            True,
        ),
        (rollout(5, "Healthy"), "1 of 2 pods are ready", False),
        (rollout(None, "Progressing"), "1 of 2 pods are ready", False),
    ],
)
def test_the_step_and_who_continues_it(found: dict[str, Any], said: str, waits: bool) -> None:
    assert (str(progress_of(found)), progress_of(found).waits) == (said, waits)


def test_an_earlier_revisions_end_is_not_this_ones() -> None:
    assert progress_of(rollout(5, "Healthy", seen="2")).phase == "Progressing"
    assert progress_of(rollout(0, "Degraded", "RolloutAborted: Rollout aborted update to revision 2")).aborted
    assert not progress_of(rollout(0, "Degraded", "InvalidSpec: AnalysisTemplate not found")).aborted
    assert not progress_of(rollout(0, "Degraded", "RolloutAborted: …", seen="2")).aborted
