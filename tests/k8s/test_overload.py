"""More requests than pods can compute, through their Service."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.k8s.deployed import KUBERNETES, Pods
from tests.k8s.rolled import MODELS
from tests.servers import wait_for

CALLERS, SECONDS = 160, 25
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0]]})


WAITING = "waiting"


def overload(address: str, seconds: float) -> Counter[str]:
    """What callers of a model got over REST, each with a connection for each request: statuses, and errors.

    When the time is over most of them are waiting.
    """
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds

    def call() -> None:
        while (left := until - time.monotonic()) > 0:
            connection = http.client.HTTPConnection(address, 8501, timeout=left)
            try:
                connection.request("POST", "/v1/models/scaled:predict", BODY)
                outcomes[str(connection.getresponse().status)] += 1
            except TimeoutError:
                outcomes[WAITING] += 1
            except (OSError, http.client.HTTPException) as error:
                outcomes[repr(error)] += 1
            finally:
                connection.close()

    with ThreadPoolExecutor(CALLERS) as pool:
        for _ in range(CALLERS):
            pool.submit(call)
    return outcomes


def readiness(pods: Pods) -> dict[str, tuple[str, str, int]]:
    """For each pod whether it is ready, since when, and how often its server was restarted."""
    found = {}
    for pod in json.loads(pods.kubectl("get", "pods", "--output=json"))["items"]:
        (ready,) = (one for one in pod["status"]["conditions"] if one["type"] == "Ready")
        restarts = pod["status"]["containerStatuses"][0]["restartCount"]
        found[pod["metadata"]["name"]] = ready["status"], ready["lastTransitionTime"], restarts
    return found


def test_overload_keeps_pods_ready(no_pods: Pods) -> None:
    # Version 4 is slow. Metadata over REST waits behind predictions, with so few threads for far longer than a probe.
    no_pods.have(4)
    no_pods.say(KUBERNETES, MODELS.replace("stable: 1", "stable: 4") + "server: {rest_api_num_threads: 4}\n")
    no_pods.k8s("apply")
    wait_for(no_pods.reachable, what="the Service's address")
    before = readiness(no_pods)
    assert [(status, restarts) for status, _, restarts in before.values()] == [("True", 0)] * 2
    outcomes = overload(no_pods.kubectl("get", "service", "serving", "--output=jsonpath={.spec.clusterIP}"), SECONDS)
    # A pod that was not ready meanwhile would be ready since then.
    assert readiness(no_pods) == before
    assert set(outcomes) == {"200", WAITING}, outcomes
    assert outcomes[WAITING] > CALLERS // 2, "it was no overload"
