"""A rollout by pods: a second Deployment has the new version, and a Gateway sends it more and more of the requests.

    Deployment serving ──────── Service serving ─────────┐ weight 100 - N
                                                         ├── HTTPRoute, GRPCRoute ◄── clients
    Deployment serving-canary ─ Service serving-canary ──┘ weight N

The second Deployment is rendered from the current models.yaml, so a changed image, flags or resources are rolled out
with the version. At the end `serving` has them, as after `tfserving k8s apply`.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from dataclasses import dataclass, field, replace

from tfserving.k8s import deployment
from tfserving.k8s.at_once import Pause, each
from tfserving.k8s.hints import recommended
from tfserving.k8s.kubectl import CHANGER, Kubectl, KubectlError, Object
from tfserving.k8s.names import CANARY, MANAGER, STABLE, Names
from tfserving.k8s.rendering import objects, render
from tfserving.k8s.rollout import gates, serves, tolerances
from tfserving.k8s.rollout.cluster import ClusterTarget, Finished
from tfserving.k8s.rollout.comparing import Before
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.strategy import Strategy
from tfserving.k8s.rollout.target import GateError, Reached, RolloutError
from tfserving.k8s.rollout.watch import Side
from tfserving.k8s.scaling import count, hold, keep_replicas, scale_up
from tfserving.k8s.waiting import wait_until_ready
from tfserving.serving.devices import KUBERNETES, fleet_device

ROUTES = ("httproute", "grpcroute")
# Objects that the second Deployment has, too: those that keep its pods there.
_OF_PODS = ("HorizontalPodAutoscaler", "PodDisruptionBudget")
_QUIET_SECONDS = 2.0


@dataclass
class ByPods(Strategy):
    """A rollout in the namespace of `kubectl`; `finished` receives the final labels."""

    kubectl: Kubectl
    finished: Finished
    _ours: Names = field(init=False)
    _stable: ClusterTarget = field(init=False)
    _canary: ClusterTarget = field(init=False)
    # Results of requests before this rollout moved any.
    _before_any: Before | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._ours = Names.of(self.fleet)
        self._stable, self._canary = (
            ClusterTarget(self.kubectl, self._ours, self.wait, self.finished, track) for track in (STABLE, CANARY)
        )

    def load(self, state: State, pause: Pause) -> None:
        """Create the second Deployment, with as many pods as the first one has.

        The first one keeps its pods as long as requests may go back to it at once.
        """
        hold(self.kubectl, self._ours.serving, held=True)
        replicas = count(self.kubectl, self._ours.serving)
        # Not by the field manager of `apply`, which would prune the second Deployment.
        self._apply([_second(one, self._ours, replicas) for one in self._made(state)], CHANGER)
        scale_up(self.kubectl, self._ours.canary, replicas)
        try:
            wait_until_ready(self.kubectl, self._ours, self._models(), self.wait, self.log, track=CANARY, pause=pause)
        except RolloutError as error:
            raise GateError(str(error)) from None
        self._everywhere(self._canary, serves.final(state), pause)

    def prove(self, state: State, pause: Pause) -> None:
        """See Strategy."""
        self._proven(state, self._canary.instances(), state.model, pause)

    def compare(self, state: State, pause: Pause) -> None:
        """Compare each new pod with one of the old ones."""
        old = itertools.cycle(self._stable.instances())
        pairs = [
            (Reached(next(old), state.model, state.old), Reached(new, state.model, state.new))
            for new in self._canary.instances()
        ]
        self._compared(state, pairs, pause)

    def move(self, state: State, pause: Pause) -> State:
        """Give the new pods the next weight, and compare their requests with those of the old pods meanwhile."""
        weight = self._next_weight(state)
        new_pods, old_pods = self._canary.instances(), self._stable.instances()
        if self.settings.address and self._before_any is None:
            self._before_any = self._before(state, lambda: old_pods, pause)
        self._weigh(weight)
        # The old pods still get requests, so their earlier ones aren't needed.
        before = Before(address=self._before_any.address) if self._before_any else None
        sides = [Side(lambda: new_pods, state.new), Side(lambda: old_pods, state.old)]
        self._judged(state, sides, pause, before, f"{weight} %: ")
        state = replace(state, weight=weight)
        return state if weight < self.settings.weights[-1] else state.next()

    def bake(self, state: State, pause: Pause) -> None:
        """See Strategy."""
        self._baked(state, self._canary, pause)

    def unload(self, state: State) -> None:
        """Replace the pods of the first Deployment, and move the requests back to it."""
        before = self._deployment()["metadata"]["generation"]
        # The autoscaler may have removed idle pods.
        replicas = max(count(self.kubectl, name) for name in (self._ours.serving, self._ours.canary))
        made = self._made(state)
        keep_replicas(self.kubectl, made[0])
        self._apply(made, MANAGER)
        if "replicas" not in made[0]["spec"]:
            scale_up(self.kubectl, self._ours.serving, replicas)
        if self._deployment()["metadata"]["generation"] == before:
            # A changed value makes a Deployment replace its pods.
            rolled = {self._ours.own("rolled-out"): f"{state.model} {state.new} {state.started}"}
            change = {"spec": {"template": {"metadata": {"annotations": rolled}}}}
            self.kubectl.patch("deployment", self._ours.serving, change)
        wait_until_ready(self.kubectl, self._ours, self._models(), self.wait, self.log)
        self._everywhere(self._stable, serves.final(state), time.sleep)
        self._proven(state, self._stable.instances(), state.model, time.sleep)
        self._leave(state)
        self._stable.finish(state.model, serves.final_labels(state))

    def go_back(self, state: State) -> None:
        """See Strategy."""
        self._leave(state)

    def check(self, state: State) -> None:
        """See Strategy."""
        if "kserve" in self.fleet.kubernetes.components:
            raise RolloutError(
                "a rollout by pods needs a second Deployment, and with the component `kserve` it is KServe that "
                "creates Deployments. Roll out in place, without --by-pods."
            )
        for kind in ROUTES:
            try:
                found = self.kubectl.get(kind, self._ours.serving)
            except KubectlError as error:
                raise RolloutError(f"a rollout by pods needs the routes of a Gateway: {error}") from None
            if found is None:
                raise RolloutError(
                    f"the {kind} {self._ours.serving} does not exist. A rollout by pods needs the component `gateway`; "
                    f"apply it with `{recommended('k8s apply')}`."
                )
        self._deployment()
        if gone := [name for name in self._models() if name not in self.fleet.models]:
            raise RolloutError(
                f"the cluster serves {', '.join(gone)}, which models.yaml doesn't have. Change the models of the "
                f"cluster first, with `{recommended('k8s apply')}`."
            )
        if state.phase == "loading":
            tolerances.check(self.fleet, state.model, state.new, [fleet_device(self.fleet, KUBERNETES)])
            deployment.check_labels(self.fleet, self._models(), self.kubectl)
        self._check_address(state)

    def close(self) -> None:
        """See Strategy."""
        self._stable.close()
        self._canary.close()

    def sentence(self, state: State) -> str:
        """See Strategy."""
        model, old, new = state.model, state.old, state.new
        match state.phase:
            case "loading":
                return f"Starting pods with {model} version {new} …"
            case "proving":
                return "Sending golden requests to the new pods …"
            case "canary":
                return self._comparing(state)
            case "stable":
                return f"Moving {self._next_weight(state)} % of the requests to version {new} …"
            case "baking":
                return self._baking(state)
            case "unloading":
                return f"Replacing the pods with version {old} by pods with version {new} …"
        return f"Rolling back: moving all requests to version {old} …"

    def _next_weight(self, state: State) -> int:
        return next(weight for weight in self.settings.weights if weight > state.weight)

    def _models(self) -> tuple[str, ...]:
        """Return the models that the cluster serves."""
        return tuple(deployment.labels(self._ours, self.kubectl))

    def _made(self, state: State) -> list[Object]:
        """Return the Deployment, and the objects for its pods alone, as they are after the rollout."""
        fleet = self.fleet.with_labels(state.model, serves.final_labels(state))
        made = objects(render(fleet, self._models(), self.kubectl))
        (pods,) = (one for one in made if one["kind"] == "Deployment")
        volumes = pods["spec"]["template"]["spec"]["volumes"]
        mounted = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
        config = [one for one in made if one["kind"] == "ConfigMap" and one["metadata"]["name"] in mounted]
        return [pods, *config, *(one for one in made if one["kind"] in _OF_PODS)]

    def _apply(self, made: list[Object], manager: str) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        self.kubectl.run("apply", *deployment.server_side(manager), "--validate=strict", input=text)

    def _deployment(self) -> Object:
        name = self._ours.serving
        found = self.kubectl.get("deployment", name)
        if found is None:
            raise RolloutError(f"the Deployment {name} does not exist. Create it with `{recommended('k8s apply')}`.")
        return found

    def _weigh(self, weight: int) -> None:
        """Set the percentage of requests that both routes send to the second Deployment."""
        weights = {self._ours.serving: 100 - weight, self._ours.canary: weight}

        def weighed(route: Object) -> Object:
            for rule in route["spec"]["rules"]:
                for backend in rule["backendRefs"]:
                    backend["weight"] = weights.get(backend["name"], backend.get("weight", 1))
            return route

        for kind in ROUTES:
            self.kubectl.change(kind, self._ours.serving, weighed)

    def _leave(self, state: State) -> None:
        """Delete the second Deployment once it gets no more requests."""
        self._weigh(0)
        if self.kubectl.get("deployment", self._ours.canary) is not None:
            self._wait_until_quiet(state)
            self.log("Deleting the second Deployment …")
            # The call returns when its pods have drained.
            deployment.draining(self.fleet, self.kubectl).run(
                "delete", "deployment", self._ours.canary, "--cascade=foreground", "--ignore-not-found"
            )
        self.kubectl.run("delete", ",".join(_OF_PODS), self._ours.canary, "--ignore-not-found")
        self.kubectl.run("delete", "configmap", self._ours.config_map(CANARY), "--ignore-not-found")
        hold(self.kubectl, self._ours.serving, held=False)

    def _wait_until_quiet(self, state: State) -> None:
        """Wait until the Gateway sends no more requests; at most `drain_seconds`, as other clients may send some."""
        until = time.monotonic() + self.fleet.kubernetes.drain_seconds
        before: int | None = None
        while time.monotonic() < until:
            try:
                pages = each(self._canary.ready(), lambda one, _: gates.page(one, state.model))
            except (GateError, KubectlError):
                return
            if (found := sum(page.total for page in pages)) == before:
                return
            before = found
            time.sleep(_QUIET_SECONDS)


def _second(made: Object, ours: Names, replicas: int) -> Object:
    """Return an object of the first Deployment for the second one, which has `replicas` pods or more.

    A ConfigMap that never changes is shared.
    """
    second = copy.deepcopy(made)
    models = ours.config_map(STABLE)
    if made["kind"] == "ConfigMap":
        if made["metadata"]["name"] == models:
            second["metadata"]["name"] = ours.config_map(CANARY)
        return second
    second["metadata"]["name"] = ours.canary
    if made["kind"] == "HorizontalPodAutoscaler":
        second["spec"]["scaleTargetRef"]["name"] = ours.canary
        # It may get all requests at once. It removes no pod: the pods of a comparison are those at its start.
        second["spec"]["minReplicas"] = min(replicas, second["spec"]["maxReplicas"])
        second["spec"].setdefault("behavior", {}).setdefault("scaleDown", {})["selectPolicy"] = "Disabled"
        return second
    if made["kind"] == "PodDisruptionBudget":
        second["spec"]["selector"]["matchLabels"][ours.track] = CANARY
        return second
    template = second["spec"]["template"]
    for labels in (second["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]):
        labels[ours.track] = CANARY
    for spread in template["spec"].get("topologySpreadConstraints", []):
        spread["labelSelector"]["matchLabels"][ours.track] = CANARY
    for volume in template["spec"]["volumes"]:
        if volume.get("configMap", {}).get("name") == models:
            volume["configMap"]["name"] = ours.config_map(CANARY)
    return second
