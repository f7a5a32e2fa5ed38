"""Read and write objects, and reach pods, through kubectl, which supports every way to sign in to a cluster."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tfserving.foundation import programs
from tfserving.k8s.at_once import MOST_AT_ONCE

# An object as the API returns it.
Object = dict[str, Any]
# The field manager of changes by rollouts, by which a GitOps engine knows fields that it must leave.
CHANGER = "tensorflow-serving-toolkit-rollout"
_CHANGE = ("--filename=-", "--output=json", f"--field-manager={CHANGER}")
_FORWARDED = re.compile(r"^Forwarding from 127\.0\.0\.1:(\d+) ->", re.M)
_INSTALL = "https://kubernetes.io/docs/tasks/tools/"
_FORWARD_SECONDS = 20.0
_MOST_FORWARDS = 8
_TRIES = 5
_LOGGED = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ ")
# The addresses that kubectl tries without a kubeconfig: nothing is configured.
_UNCONFIGURED = re.compile(r"server (localhost|127\.0\.0\.1):8080 was refused|http://localhost:8080/")
# What `apply` puts around the reason when it can't read the server's schema.
_VALIDATING = re.compile(r'^error: error validating ".*?": error validating data: |; if you choose to ignore .*')
_NO_CONTEXT = re.compile(r"context was not found for specified context: (.*)|context \"(.*)\" does not exist")
_BAD_CONFIG = re.compile(r"error loading config file|invalid configuration:|stat .*: no such file")
_NO_NAMESPACE = re.compile(r'\(NotFound\): namespaces "(.*)" not found')
_WEBHOOK = re.compile(r'failed calling webhook "(.*?)": (.*)')
_NOT_DELETED = re.compile(r"timed out waiting for the condition on (\S+)")
# How client-go and net/http word a server that can't be reached.
_UNREACHABLE = re.compile(
    r"connection to the server .* was refused|Unable to connect to the server|connection refused|no such host"
    r"|i/o timeout|TLS handshake timeout|no route to host|network is unreachable|connection reset by peer"
    r"|Client\.Timeout exceeded|the server is currently unable to handle the request"
)


class KubectlError(Exception):
    """kubectl fails; the text contains its own message."""


class SetupError(KubectlError):
    """kubectl isn't installed, or its configuration is wrong: no call was made."""


class UnreachableError(KubectlError):
    """The cluster can't be reached."""


class ConflictError(KubectlError):
    """The object was changed, or created, by somebody else in the meantime."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace of one context (default: the current ones). A call may take `seconds`.

    With `direct`, this machine is on the network of the pods, and connects to their own addresses.
    """

    namespace: str | None = None
    context: str | None = None
    seconds: float = 60.0
    direct: bool = False

    @property
    def at_once(self) -> int:
        """How many pods may be reached at the same time: each forwarding is a process with 60 MB."""
        return MOST_AT_ONCE if self.direct else _MOST_FORWARDS

    def within(self, seconds: float) -> Kubectl:
        """The same kubectl with another time limit for each call."""
        return replace(self, seconds=seconds)

    def run(self, *words: str, input: str | None = None, codes: tuple[int, ...] = (0,)) -> str:  # noqa: A002 - as subprocess calls it
        """Run `kubectl WORDS`; return its stdout.

        Raises SetupError, UnreachableError (also when the call takes too long), ConflictError, or KubectlError when the
        exit code is not in `codes`.
        """
        called = f"kubectl {words[0]}"
        try:
            done = programs.run([*self._command(), *words], self.seconds, input or "")
        except FileNotFoundError:
            raise SetupError(f"kubectl is not on PATH. Install it: {_INSTALL}") from None
        except OSError as error:
            raise SetupError(f"cannot run {called}: {error.strerror}") from None
        except programs.OverTimeError:
            raise UnreachableError(
                f"{called} got no response within {self.seconds:g} s. Check that the cluster is up and that kubectl is "
                "signed in. `kubernetes.kubectl_seconds` in models.yaml raises the limit."
            ) from None
        if done.cut:
            raise KubectlError(f"{called} prints more than {programs.MOST_BYTES} bytes")
        if done.code not in codes:
            printed = _without_log(done.stderr.strip() or done.stdout.strip()) or f"exit code {done.code}"
            raise _failure(called, printed)
        return done.stdout

    def get(self, kind: str, name: str) -> Object | None:
        """Return one object; None when no object has that name. Raises KubectlError."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output=json")
        return _object(text) if text.strip() else None

    def select(self, kind: str, selector: str = "", *words: str) -> list[Object]:
        """Return the objects with these labels. Raises KubectlError."""
        text = self.run("get", kind, f"--selector={selector}", "--output=json", *words)
        return list(_object(text).get("items") or [])

    def create(self, made: Mapping[str, Any]) -> Object:
        """Create an object. Raises ConflictError when an object has that name."""
        return _object(self.run("create", *_CHANGE, input=json.dumps(made)))

    def replace(self, changed: Mapping[str, Any]) -> Object:
        """Replace an object that was read before. Raises ConflictError when it has changed since."""
        return _object(self.run("replace", *_CHANGE, input=json.dumps(changed)))

    def change(self, kind: str, name: str, change: Callable[[Object], Object]) -> None:
        """Read an object, and write what `change` returns for it; retry when the object changed in between.

        Raises ConflictError after five conflicts, KubectlError when the object doesn't exist.
        """
        for tries in range(_TRIES):
            found = _object(self.run("get", kind, name, "--output=json"))
            changed = change(copy.deepcopy(found))
            if changed == found:
                return
            try:
                self.replace(changed)
                return
            except ConflictError:
                if tries == _TRIES - 1:
                    raise

    def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """Merge `change` into an object. Raises KubectlError."""
        self.run("patch", kind, name, f"--field-manager={CHANGER}", "--type=merge", f"--patch={json.dumps(change)}")

    @contextlib.contextmanager
    def reach(self, pod: Object, *ports: int) -> Iterator[list[str]]:
        """Return an address, HOST:PORT, for each of `ports` of a pod: its own one, or one that kubectl forwards.

        Raises KubectlError.
        """
        if self.direct:
            yield _own_addresses(pod, ports)
        else:
            with self._forward(pod["metadata"]["name"], ports) as forwarded:
                yield [f"127.0.0.1:{port}" for port in forwarded]

    @contextlib.contextmanager
    def _forward(self, name: str, ports: Sequence[int]) -> Iterator[list[int]]:
        """Forward ports of this machine's loopback address to `ports` of a pod."""
        command = [
            *self._command(),
            "port-forward",
            f"pod/{name}",
            "--address=127.0.0.1",
            *(f":{port}" for port in ports),
        ]
        devnull, pipe = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=devnull, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield self._forwarded(process, name, len(ports))
        finally:
            # With the sign-in program that it started, and even when it ignores SIGTERM.
            programs.end_group(process)
            assert process.stdout
            process.stdout.close()

    def _forwarded(self, process: subprocess.Popen[bytes], pod: str, count: int) -> list[int]:
        assert process.stdout is not None
        printed, deadline = "", time.monotonic() + _FORWARD_SECONDS
        while len(found := _FORWARDED.findall(printed)) < count:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            # Not line by line: select doesn't see what is in a file's buffer.
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                reason = (
                    _without_log(printed.strip()) or f"kubectl port-forward printed nothing in {_FORWARD_SECONDS:g} s"
                )
                raise UnreachableError(f"cannot reach pod {pod}: {reason}")
            printed += data.decode(errors="replace")
        return [int(port) for port in found]

    def _command(self) -> list[str]:
        words = ["kubectl"]
        if self.context:
            words.append(f"--context={self.context}")
        if self.namespace:
            words.append(f"--namespace={self.namespace}")
        return words


def _own_addresses(pod: Object, ports: Sequence[int]) -> list[str]:
    """Return the addresses of a pod on the network of the pods. Raises UnreachableError when it has none yet."""
    host = pod.get("status", {}).get("podIP")
    if not host:
        raise UnreachableError(f"cannot reach pod {pod['metadata']['name']}: it has no address yet")
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for port in ports]


def _object(text: str) -> Object:
    """Parse an object that kubectl printed. Raises KubectlError when the text is not an object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KubectlError(f"kubectl printed no valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise KubectlError("kubectl printed JSON that is not an object")
    return found


def _failure(called: str, printed: str) -> KubectlError:
    """The error of a call that printed this and failed."""
    if _UNCONFIGURED.search(printed):
        return SetupError(
            "kubectl has no cluster configured. Set KUBECONFIG, or create a cluster, for example with kind."
        )
    if match := _NO_CONTEXT.search(printed):
        name = match[1] or match[2]
        return SetupError(f"kubectl has no context {name!r}. `kubectl config get-contexts` lists the contexts.")
    if _BAD_CONFIG.search(printed):
        return SetupError(f"kubectl's configuration is wrong: {printed.removeprefix('error: ')}")
    if match := _WEBHOOK.search(printed):
        return KubectlError(
            f"the cluster has a webhook that doesn't respond, {match[1]!r}: {match[2]}. Check that its controller runs."
        )
    if _UNREACHABLE.search(printed):
        reason = _VALIDATING.sub("", printed.partition(" - did you specify")[0])
        reason = reason.removeprefix("Unable to connect to the server: ")
        return UnreachableError(
            f"cannot reach the cluster: {reason}. Check that it runs, and `kubectl config current-context`."
        )
    if match := _NO_NAMESPACE.search(printed):
        return KubectlError(
            f"the cluster has no namespace {match[1]!r}. Create it with `kubectl create namespace {match[1]}`, or set "
            "another `kubernetes.namespace`."
        )
    if match := _NOT_DELETED.search(printed):
        return KubectlError(
            f"{match[1]} is marked for deletion and still there. `kubectl get {match[1]} --output=yaml` shows its "
            "finalizers; the controller that removes them must be running."
        )
    kind = ConflictError if re.search(r"\((Conflict|AlreadyExists)\)", printed) else KubectlError
    return kind(f"{called}: {printed}")


def _without_log(printed: str) -> str:
    """The output of kubectl without the lines that its library logs before (`E1125 08:56:10.1 …`)."""
    lines = [line for line in printed.splitlines() if not _LOGGED.match(line)]
    return "\n".join(lines) or printed
