"""What Argo Rollouts makes of a slow version, and of one without requests, by the figures of the real Prometheus.

By hand, since it takes minutes: `pytest tests/k8s/by_hand/argo_rollouts.py`
"""

from __future__ import annotations

import json

import pytest

from tests.k8s.load import BY_STABLE, UNLABELLED
from tests.k8s.test_argo_rollouts import Fleet, fleet, moving
from tests.servers import wait_for

__all__ = ["fleet"]
pytestmark = pytest.mark.timeout(900)


def test_a_slow_version_is_stopped_by_the_figures(fleet: Fleet) -> None:
    fleet.have(4)
    with fleet.load(rate=30, kinds=(UNLABELLED, BY_STABLE)) as load:
        moving(load, 1, 4, "stable")
        fleet.commits(4)
        said = fleet.k8s("apply", "--wait", "600", code=1).stderr
        assert 'Metric "latency" assessed Failed' in said, said
        fleet.settled()
        moving(load, 1, 4, "rolled-back")
        seen = load.versions[1]
        wait_for(lambda: load.versions[1] > seen + 20)
    assert load.failures == []
    assert set(load.versions) == {1, 4}


def test_a_version_without_requests_waits_for_a_person(fleet: Fleet) -> None:
    fleet.have(3)
    fleet.commits(3)
    said = fleet.k8s("apply", "--wait", "600", code=1).stderr
    assert "the Rollout serving waits at step 3 of 5, 50 % of the pods are new: " in said, said
    assert ("errors", "Inconclusive") in fleet.measured()
    # As `kubectl argo rollouts promote --full` does.
    promoted = json.dumps({"status": {"promoteFull": True}})
    fleet.kubectl("patch", "rollout", "serving", "--subresource=status", "--type=merge", f"--patch={promoted}")
    fleet.k8s("apply", "--wait", "600")
    assert "scaled: version 3 AVAILABLE, stable → 3." in fleet.k8s("status").stdout
