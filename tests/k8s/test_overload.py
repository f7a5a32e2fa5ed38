"""More requests than pods can compute, through their Service."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.k8s.deployed import KUBERNETES, Pods
from tests.k8s.test_rollout import MODELS
from tests.servers import wait_for

CALLERS, SECONDS = 160, 25
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0]]})


@dataclass
class Overload:
    """Callers of a model over REST, each with one request after the other, and a connection for each."""

    address: str
    seconds: float
    outcomes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Returns when the last response is there."""
        until = time.monotonic() + self.seconds
        with ThreadPoolExecutor(CALLERS) as pool:
            for _ in range(CALLERS):
                pool.submit(self._call, until)

    def _call(self, until: float) -> None:
        while time.monotonic() < until:
            connection = http.client.HTTPConnection(self.address, 8501, timeout=120)
            try:
                connection.request("POST", "/v1/models/scaled:predict", BODY)
                self.outcomes[str(connection.getresponse().status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[repr(error)] += 1
            finally:
                connection.close()


def readiness(pods: Pods) -> dict[str, tuple[str, str, int]]:
    """For each pod whether it is ready, since when, and how often its server was restarted."""
    found = {}
    for pod in json.loads(pods.kubectl("get", "pods", "--output=json"))["items"]:
        (ready,) = (one for one in pod["status"]["conditions"] if one["type"] == "Ready")
        restarts = pod["status"]["containerStatuses"][0]["restartCount"]
        found[pod["metadata"]["name"]] = ready["status"], ready["lastTransitionTime"], restarts
    return found


def test_overload_keeps_pods_ready(no_pods: Pods) -> None:
    no_pods.have(4)
    no_pods.say(KUBERNETES, MODELS.replace("stable: 1", "stable: 4"))
    no_pods.k8s("apply")
    wait_for(no_pods.reachable, what="the Service's address")
    before = readiness(no_pods)
    assert [(status, restarts) for status, _, restarts in before.values()] == [("True", 0)] * 2
    overload = Overload(no_pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}"), SECONDS)
    overload.run()
    # A pod that was not ready meanwhile is ready since then.
    assert readiness(no_pods) == before
    assert set(overload.outcomes) == {"200"}
    assert overload.outcomes["200"] > CALLERS
