"""Rollouts on the pods of a cluster. Running pods are configured one by one; new pods read a ConfigMap.

    ConfigMap NAME-models ──► pods that start
    HandleReloadConfigRequest ──► each pod that runs, at its own address or through a forwarded port

The state is in a ConfigMap. The right to roll out is the Lease of the same name (`tfserving.k8s.names.Names.rollout`;
https://kubernetes.io/docs/concepts/architecture/leases/).
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias, cast, get_args

from tfserving.clients import connect
from tfserving.clients.errors import DeadlineExceeded, ServingError, Unavailable
from tfserving.foundation.devices import Device
from tfserving.k8s.at_once import Shared, each
from tfserving.k8s.devices import pod_device
from tfserving.k8s.hints import recommended
from tfserving.k8s.kubectl import ConflictError, Kubectl, KubectlError, Object
from tfserving.k8s.names import STABLE, Names
from tfserving.k8s.pods import GRPC_PORT, REST_PORT, ready
from tfserving.k8s.rollout.kept import kept_state, models_config_of
from tfserving.k8s.rollout.state import Request, State
from tfserving.k8s.rollout.target import GateError, HeldError, Instance, RolloutError, Serve
from tfserving.serving.config import MODELS_CONFIG
from tfserving.serving.config_messages import text
from tfserving.serving.engines.readiness import taken

# Receives a model and its final labels.
Finished: TypeAlias = Callable[[str, Mapping[str, int]], None]
_RELOAD_SECONDS = 60.0
_LEASE_SECONDS = 15
_RENEW_SECONDS = 4.0
_LEASE_CALL_SECONDS = 5.0
_REQUEST_SECONDS = 2.0
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Pod:
    """A pod, at its own addresses or at ports of this machine that kubectl forwards.

    `device` is the kind of device by its spec, `config` reads the configuration of the ConfigMap, `staying` the names
    of the pods that aren't terminating.
    """

    name: str
    grpc: str
    rest: str
    device: Device | None
    config: Callable[[], Any]
    staying: Callable[[], frozenset[str]]

    def configure(self, serve: Serve, *, keep: bool = True) -> None:  # noqa: ARG002 - a restart reads the ConfigMap
        """Send it the configuration of the ConfigMap, with this change.

        A container that restarts reads the ConfigMap of that moment, since the kubelet then mounts it anew.
        """
        with connect(f"grpc://{self.grpc}") as client:
            try:
                client.reload_config(serve.applied(self.config()), timeout=_RELOAD_SECONDS)
            except ServingError as error:
                if not (taken(error) or _goes_on(error)):
                    raise

    def leaves(self) -> bool:
        """See Instance. A pod that crashed isn't leaving."""
        with contextlib.suppress(KubectlError):
            return self.name not in self.staying()
        return False


class ClusterTarget:
    """The pods of a track; `finished` receives the final labels. Close it to end the port forwarding."""

    def __init__(self, kubectl: Kubectl, ours: Names, wait: float, finished: Finished, track: str = STABLE) -> None:
        self._kubectl, self._ours, self._wait, self._finished, self._track = kubectl, ours, wait, finished, track
        self._forwards: dict[str, tuple[contextlib.ExitStack, list[str]]] = {}
        self._config = Shared(lambda: models_config_of(self._config_map()))
        self._staying = Shared(lambda: frozenset(str(pod["metadata"]["name"]) for pod in self._pods()))

    def instances(self) -> list[Instance]:
        """See Target. Waits until every pod is ready."""
        deadline = time.monotonic() + self._wait
        while True:
            pods = self._pods()
            waiting = [pod["metadata"]["name"] for pod in pods if not ready(pod)]
            if pods and not waiting:
                break
            if time.monotonic() > deadline:
                if not pods:
                    raise RolloutError(
                        f"no pod has the labels {self._ours.pods(self._track)}. "
                        f"Start the pods with `{recommended('k8s apply')}`."
                    )
                raise GateError(f"pod {waiting[0]} isn't ready after {self._wait:g} s")
            time.sleep(_POLL_SECONDS)
        return self._reach(pods)

    def ready(self) -> list[Instance]:
        """Return the pods that are ready now."""
        return self._reach([pod for pod in self._pods() if ready(pod)])

    def keep(self, serve: Serve) -> None:
        """See Target. Writes the ConfigMap."""

        def applied(found: Object) -> Object:
            found["data"][MODELS_CONFIG] = text(serve.applied(models_config_of(found)))
            return found

        self._config_map()
        self._kubectl.change("configmap", self._ours.config_map(self._track), applied)

    def finish(self, model: str, labels: Mapping[str, int]) -> None:
        """See Target."""
        self._finished(model, labels)

    def close(self) -> None:
        """End the port forwarding."""
        for stack, _ in self._forwards.values():
            stack.close()
        self._forwards.clear()

    def _pods(self) -> list[Object]:
        """Return the pods that aren't terminating, sorted by name."""
        pods = self._kubectl.select("pods", self._ours.pods(self._track))
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return sorted(staying, key=lambda pod: str(pod["metadata"]["name"]))

    def _reach(self, pods: list[Object]) -> list[Instance]:
        return each(pods, lambda pod, _: self._reached(pod), most=self._kubectl.at_once)

    def _reached(self, pod: Object) -> Instance:
        grpc, rest = self._addresses(pod)
        return Pod(str(pod["metadata"]["name"]), grpc, rest, pod_device(pod), self._config, self._staying)

    def _addresses(self, pod: Object) -> list[str]:
        """Return a pod's addresses for gRPC and REST. A forwarded port is used again while it works."""
        if self._kubectl.direct:
            with self._kubectl.reach(pod, GRPC_PORT, REST_PORT) as addresses:
                return addresses
        name = str(pod["metadata"]["name"])
        if name in self._forwards:
            stack, addresses = self._forwards[name]
            if all(map(_listens, addresses)):
                return addresses
            stack.close()
        stack = contextlib.ExitStack()
        addresses = stack.enter_context(self._kubectl.reach(pod, GRPC_PORT, REST_PORT))
        self._forwards[name] = stack, addresses
        return addresses

    def _config_map(self) -> Object:
        name = self._ours.config_map(self._track)
        found = self._kubectl.get("configmap", name)
        if found is None:
            raise RolloutError(f"the ConfigMap {name} does not exist. Create it with `{recommended('k8s apply')}`.")
        return found


class ClusterStore:
    """The state of a model's rollouts in the cluster."""

    def __init__(self, kubectl: Kubectl, ours: Names, model: str) -> None:
        self._kubectl, self._ours, self._model = kubectl, ours, model
        self._name = ours.rollout(model)
        # A lease that isn't renewed in time is lost, so a call that renews it must be shorter.
        self._quick = kubectl.within(min(kubectl.seconds, _LEASE_CALL_SECONDS))
        self._me = f"{socket.gethostname()}-{uuid.uuid4()}"
        self._lost = ""
        self._next_read = 0.0

    def load(self) -> State | None:
        """See Store."""
        found = self._kubectl.get("configmap", self._name)
        return kept_state(found, self._model) if found else None

    def others(self) -> list[State]:
        """See Store."""
        states = map(kept_state, self._kubectl.select("configmaps", self._ours.rollouts))
        return [state for state in states if state and state.model != self._model]

    def save(self, state: State) -> None:
        """See Store."""
        self._write({"state": state.text()})

    def hand_over(self, state: State, files: Mapping[str, str]) -> None:
        """Store `state`, and files beside it, for a process that may change these objects and create none."""
        self._write({"state": state.text(), "request": "", **files})
        if self._kubectl.get("lease", self._name) is None:
            self._create_lease({})

    def send_request(self, request: Request) -> None:
        """See Store."""
        self._write({"request": request})

    def take_request(self) -> Request | None:
        """See Store. Reads the cluster every other second. Raises HeldError when the lease was lost."""
        if self._lost:
            raise HeldError(self._lost)
        if time.monotonic() < self._next_read:
            return None
        self._next_read = time.monotonic() + _REQUEST_SECONDS
        request = self._data().get("request", "")
        if request not in get_args(Request):
            return None
        self._write({"request": ""})
        return cast(Request, request)

    def held(self) -> bool:
        """See Store."""
        found = self._kubectl.get("lease", self._name)
        return found is not None and not _expired(found)

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """See Store."""
        self._take()
        over = threading.Event()
        thread = threading.Thread(target=self._renew, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if not self._lost:
                with contextlib.suppress(KubectlError):
                    self._release()

    def _release(self) -> None:
        """Leave the lease without a holder. Its object stays: who rolls out may not create one."""
        found = self._kubectl.get("lease", self._name)
        if found and (found.get("spec") or {}).get("holderIdentity") == self._me:
            self._kubectl.replace({**found, "spec": {}})

    def _take(self) -> None:
        found = self._kubectl.get("lease", self._name)
        try:
            if found is None:
                self._create_lease(self._spec())
            elif _expired(found):
                self._kubectl.replace({**found, "spec": self._spec()})
            else:
                raise HeldError(self._held_by(str(found["spec"].get("holderIdentity"))))
        except ConflictError:
            raise HeldError(self._held_by("another process")) from None

    def _create_lease(self, spec: Mapping[str, Any]) -> None:
        metadata = {"name": self._name, "labels": self._ours.rollout_labels}
        self._kubectl.create(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        )

    def _held_by(self, holder: str) -> str:
        return (
            f"{holder} is rolling out {self._model!r}. Follow it with "
            f"`{recommended(f'rollout status {self._model} --watch')}`."
        )

    def _renew(self, over: threading.Event) -> None:
        renewed = time.monotonic()
        while not over.wait(_RENEW_SECONDS):
            try:
                found = self._quick.get("lease", self._name)
                if found is None or found["spec"].get("holderIdentity") != self._me:
                    self._lost = f"another process took the lease {self._name}"
                    return
                self._quick.replace({**found, "spec": self._spec()})
                renewed = time.monotonic()
            except KubectlError as error:
                if time.monotonic() - renewed > _LEASE_SECONDS:
                    self._lost = f"cannot renew the lease {self._name}: {error}"
                    return

    def _spec(self) -> dict[str, Any]:
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {"holderIdentity": self._me, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}

    def _data(self) -> dict[str, str]:
        found = self._kubectl.get("configmap", self._name)
        return dict((found or {}).get("data") or {})

    def _write(self, data: dict[str, str]) -> None:
        try:
            self._kubectl.patch("configmap", self._name, {"data": data})
        except KubectlError:
            if self._kubectl.get("configmap", self._name) is not None:
                raise
            metadata = {"name": self._name, "labels": self._ours.rollout_labels}
            self._kubectl.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _goes_on(error: ServingError) -> bool:
    """Return whether a server still loads what a call named. The states of the versions show the result.

    The call lasts as long as the loading. The connection ends at its maximum age, and the call at its time limit.
    """
    too_old = isinstance(error, Unavailable) and "max connection age" in error.text
    return too_old or isinstance(error, DeadlineExceeded)


def _expired(lease: Object) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("renewTime"):
        return True
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    return datetime.now(timezone.utc) > renewed + timedelta(seconds=spec.get("leaseDurationSeconds", _LEASE_SECONDS))


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), 1).close()
        return True
    return False
