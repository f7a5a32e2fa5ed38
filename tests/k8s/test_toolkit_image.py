"""The toolkit's own image: what it runs, and as whom."""

from __future__ import annotations

from pathlib import Path

from docker import DockerClient

from tests.docker.engine import TOOLKIT
from tests.signed import make_key, sign_with, tiny_version
from tfserving import __version__
from tfserving.foundation.trust import Trust
from tfserving.k8s.trust_files import trust_files

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


def test_it_verifies_signatures_without_a_home_or_a_network(docker: DockerClient, tmp_path: Path) -> None:
    """As the user of the pods' containers, on a read-only root: only what is signed is copied."""
    private, public = make_key(tmp_path, "release")
    sign_with(tiny_version(tmp_path / "remote", number=1), private)
    tiny_version(tmp_path / "remote", number=2)
    for name in ("trust", "models"):
        (tmp_path / name).mkdir()
    for name, text in trust_files(Trust(keys=(public,))).items():
        (tmp_path / "trust" / name).write_text(text)
    (tmp_path / "models").chmod(0o777)
    tmp_path.chmod(0o755)
    words = ["-m", "tfserving.k8s.sync", "file:///fleet/remote", "/fleet/models", "--trust=/fleet/trust", "--once"]
    done = docker.containers.run(
        TOOLKIT,
        [f"python3 {' '.join(words)} 2>&1; touch /tmp/x || echo no writable folder"],
        entrypoint=["/bin/sh", "-c"],
        user="10002:10002",
        environment={"HOME": "/nonexistent"},
        volumes={str(tmp_path): {"bind": "/fleet", "mode": "rw"}},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        remove=True,
    ).decode()
    assert "scaled/1 is copied, signed by the key /fleet/trust/key-1-release.pub" in done
    assert "scaled/2 is not signed" in done
    assert "no writable folder" in done
    assert "Traceback" not in done
    assert sorted(path.name for path in (tmp_path / "models/scaled").iterdir()) == ["1"]
