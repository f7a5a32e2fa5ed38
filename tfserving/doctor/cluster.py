"""Whether there is a Kubernetes cluster to use."""

from __future__ import annotations

import json
import shutil
import subprocess

from tfserving.doctor.finding import Finding

_SECONDS = 3


def cluster() -> Finding:
    """Return whether kubectl is installed and the cluster of its current context responds."""
    use = "`tfserving k8s` and `rollout --cluster` need it."
    if shutil.which("kubectl") is None:
        return Finding("Kubernetes", "missing", "no kubectl on PATH", f"{use} Install kubectl.")
    command = ["kubectl", "version", "-o", "json", f"--request-timeout={_SECONDS - 0.5}s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        versions = json.loads(done.stdout or "{}")
        reason = done.stderr.strip().splitlines()[-1:]
    except (OSError, subprocess.TimeoutExpired, ValueError):
        versions, reason = {}, [f"no response within {_SECONDS} s"]
    client = versions.get("clientVersion", {}).get("gitVersion")
    server = versions.get("serverVersion", {}).get("gitVersion")
    data = {"kubectl_version": client, "cluster_version": server}
    if server is None:
        found = f"kubectl {client or ''}".strip() + ", no cluster: " + " ".join(reason)
        hint = f"{use} Start a cluster, or select its context: `kubectl config use-context NAME`."
        return Finding("Kubernetes", "missing", found, hint, data)
    return Finding("Kubernetes", "ok", f"cluster {server}, kubectl {client}", data=data)
