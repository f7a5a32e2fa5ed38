"""kubectl, which knows every way to sign in to a cluster: objects read and written, and pods reached, through it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfserving.foundation import programs

# An object as the API has it.
Object = dict[str, Any]
_FORWARDED = re.compile(r"^Forwarding from 127\.0\.0\.1:(\d+) ->", re.M)
_FORWARD_SECONDS = 20.0
_TRIES = 5
_LOGGED = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ ")


class KubectlError(Exception):
    """A cluster can't be asked, or refuses; the text has kubectl's own words."""


class ConflictError(KubectlError):
    """Somebody else has changed the object, or made it, in the meantime."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace of one context; the current ones when not given. A call may take `seconds`."""

    namespace: str | None = None
    context: str | None = None
    seconds: float = 60.0

    def within(self, seconds: float) -> Kubectl:
        """This, where a call may take that long."""
        return replace(self, seconds=seconds)

    def run(self, *words: str, input: str | None = None, codes: tuple[int, ...] = (0,)) -> str:  # noqa: A002 - as subprocess calls it
        """What `kubectl WORDS` prints.

        Raises KubectlError when its exit code is none of `codes`, or it takes too long.
        """
        called = f"kubectl {words[0]}"
        try:
            done = programs.run([*self._command(), *words], self.seconds, input or "")
        except FileNotFoundError:
            raise KubectlError("kubectl isn't on PATH; Kubernetes' own pages say how to install it") from None
        except OSError as error:
            raise KubectlError(f"{called} can't be run: {error.strerror}") from None
        except programs.OverTimeError as error:
            raise KubectlError(
                f"{called}: {error}; does the cluster answer, and is kubectl signed in? `kubernetes.kubectl_seconds` "
                "in models.yaml gives a call more time"
            ) from None
        if done.cut:
            raise KubectlError(f"{called} prints more than {programs.MOST_BYTES} bytes")
        if done.code not in codes:
            said = _without_log(done.stderr.strip() or done.stdout.strip())
            kind = ConflictError if re.search(r"\((Conflict|AlreadyExists)\)", said) else KubectlError
            raise kind(f"{called}: {said or f'exit code {done.code}'}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object | None:
        """One object; None when there is none of that name. Raises KubectlError."""
        text = self.run("get", kind, name, "--ignore-not-found", "--output=json")
        return _object(text) if text.strip() else None

    def select(self, kind: str, selector: str = "", *words: str) -> list[Object]:
        """The objects that have these labels. Raises KubectlError."""
        text = self.run("get", kind, f"--selector={selector}", "--output=json", *words)
        return list(_object(text).get("items") or [])

    def create(self, made: Mapping[str, Any]) -> Object:
        """Makes an object. Raises ConflictError when there is one of that name."""
        return _object(self.run("create", "--filename=-", "--output=json", input=json.dumps(made)))

    def replace(self, changed: Mapping[str, Any]) -> Object:
        """Replaces an object that was read before. Raises ConflictError when it was changed since."""
        return _object(self.run("replace", "--filename=-", "--output=json", input=json.dumps(changed)))

    def change(self, kind: str, name: str, change: Callable[[Object], Object]) -> None:
        """Reads an object and writes what `change` makes of it, again when somebody else was quicker.

        Raises ConflictError when that is so five times, KubectlError when there is no such object.
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
        """Merges `change` into an object. Raises KubectlError."""
        self.run("patch", kind, name, "--type=merge", f"--patch={json.dumps(change)}")

    @contextlib.contextmanager
    def forward(self, pod: str, *ports: int) -> Iterator[list[int]]:
        """Ports of this machine's loopback address that lead to `ports` of a pod. Raises KubectlError."""
        command = [
            *self._command(),
            "port-forward",
            f"pod/{pod}",
            "--address=127.0.0.1",
            *(f":{port}" for port in ports),
        ]
        devnull, pipe = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=devnull, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield self._forwarded(process, pod, len(ports))
        finally:
            # With what it has signed in by, and whether or not it hears.
            programs.end_group(process)
            assert process.stdout
            process.stdout.close()

    def _forwarded(self, process: subprocess.Popen[bytes], pod: str, count: int) -> list[int]:
        assert process.stdout is not None
        said, deadline = "", time.monotonic() + _FORWARD_SECONDS
        while len(found := _FORWARDED.findall(said)) < count:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            # Not by lines: what is in a file's buffer, select doesn't know of.
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                raise KubectlError(f"pod {pod} can't be reached: {said.strip() or 'kubectl port-forward says nothing'}")
            said += data.decode(errors="replace")
        return [int(port) for port in found]

    def _command(self) -> list[str]:
        words = ["kubectl"]
        if self.context:
            words.append(f"--context={self.context}")
        if self.namespace:
            words.append(f"--namespace={self.namespace}")
        return words


def _object(text: str) -> Object:
    """An object that kubectl printed. Raises KubectlError when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KubectlError(f"kubectl prints no JSON: {error}") from None
    if not isinstance(found, dict):
        raise KubectlError("kubectl prints no object")
    return found


def _without_log(said: str) -> str:
    """What kubectl says, without the lines that its library logs before it (`E1125 08:56:10.1 …`)."""
    lines = [line for line in said.splitlines() if not _LOGGED.match(line)]
    return "\n".join(lines) or said
