"""The toolkit's own image: what it runs, and as whom."""

from __future__ import annotations

from docker import DockerClient

from tests.docker.engine import TOOLKIT
from tfserving import __version__

# Each is one word of the shell that runs them.
COMMANDS = (
    "python3 -m tfserving --version",
    "kubectl version --client --output=yaml",
    "kubectl kustomize /opt/toolkit/k8s/base",
    "python3 -m tfserving.k8s.sync --help",
    "python3 -m tfserving rollout --help",
    "python3 -m tfserving export build",
    "id -u",
)


def test_it_runs_as_nobody_on_a_read_only_root(docker: DockerClient) -> None:
    assert docker.images.get(TOOLKIT).labels["org.opencontainers.image.version"] == __version__
    done = docker.containers.run(
        TOOLKIT,
        ["-c", "; ".join(f"{command} 2>&1" for command in COMMANDS)],
        entrypoint="/bin/sh",
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108 - in the container
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        remove=True,
    ).decode()
    assert f"tfserving {__version__}\n" in done
    assert "gitVersion: v1." in done
    assert "kind: Deployment" in done
    assert "--max-bytes" in done
    assert "Roll out a new version" in done
    # What needs TensorFlow is not there, and says so without a traceback.
    assert "Traceback" not in done
    assert done.endswith("\n10001\n")
