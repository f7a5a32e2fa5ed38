"""An engine and a cluster for several processes of tests, which find them by their environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tests.cluster import node
from tests.docker import engine
from tests.docker.machine import Machine
from tfserving.serving.models_yaml.server import IMAGE


@contextlib.contextmanager
def shared() -> Iterator[dict[str, str]]:
    """Starts both; yields the variables of processes that use them, and leaves the machine as it was.

    Where none can run, or the environment names those that run, there is nothing to start: the fixtures say why.
    """
    given = {"TEST_DOCKER_HOST", "KUBECONFIG"} & {*os.environ}
    if given or engine.unusable() or node.unusable() or node.unbuilt():
        yield {}
        return
    with engine.started() as host:
        engine.build_images(host)
        before = Machine.now()
        with node.started() as cluster:
            cluster.load_image(host, IMAGE)
            yield {"TEST_DOCKER_HOST": host, "KUBECONFIG": str(node.KUBECONFIG)}
        assert not (left := node.left() or before.left(node.FOLDER)), f"the cluster left {left}"
