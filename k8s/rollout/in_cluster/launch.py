"""Starts a rollout in the cluster: the account, the stored state with its files, and the Job."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tfserving.k8s import deployment
from tfserving.k8s.hints import recommended
from tfserving.k8s.images import check_pinned
from tfserving.k8s.kubectl import CHANGER, Kubectl, KubectlError, Object
from tfserving.k8s.names import Names
from tfserving.k8s.rendering import objects, render
from tfserving.k8s.rollout.cluster import ClusterStore
from tfserving.k8s.rollout.in_cluster.files import check, files
from tfserving.k8s.rollout.in_cluster.following import ended
from tfserving.k8s.rollout.in_cluster.job import job
from tfserving.k8s.rollout.state import State
from tfserving.k8s.rollout.target import HeldError, RolloutError
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.models_yaml.rollout import Rollout

ACCOUNT = "rollouts"
_KINDS = ("ServiceAccount", "Role", "RoleBinding")


def running(fleet: Fleet, model: str, kubectl: Kubectl) -> bool:
    """Return whether a Job rolls the model out now."""
    found = kubectl.get("job", Names.of(fleet).job(model))
    return found is not None and not ended(found)


def delete(fleet: Fleet, model: str, kubectl: Kubectl) -> None:
    """Delete the Job that rolls the model out, and wait for the end of its pods."""
    kubectl.run("delete", "job", Names.of(fleet).job(model), "--ignore-not-found", "--cascade=foreground")


def launch(fleet: Fleet, state: State, settings: Rollout, store: ClusterStore, kubectl: Kubectl, wait: float) -> str:
    """Store the state, and start the Job that continues from it; return the Job's name.

    Everything is checked first, also by the cluster. Raises RolloutError, FleetError and KubectlError.
    """
    ours, model = Names.of(fleet), state.model
    check(fleet, model, settings)
    served = tuple(deployment.labels(ours, kubectl))
    if model not in served:
        raise RolloutError(f"the cluster does not serve {model!r}. Start it there with `{recommended('k8s apply')}`.")
    if store.held():
        raise HeldError(f"another process rolls out {model!r} now.")
    if fleet.trust:
        check_pinned([("kubernetes.toolkit_image", fleet.kubernetes.toolkit_image)])
    manifests = objects(render(_with_account(fleet), served, kubectl))
    account = [one for one in manifests if one["kind"] in _KINDS and one["metadata"]["name"] == ours.account]
    content = files(fleet, served, state, settings)
    made = job(fleet, model, manifests, wait)
    # Under another name, since the Job of an earlier rollout may still be there.
    tried = {**made, "metadata": {**made["metadata"], "name": None, "generateName": f"{ours.account}-"}}
    _create(tried, kubectl, "--dry-run=server")
    _account(fleet, account, kubectl)
    # That of an earlier rollout has ended.
    delete(fleet, model, kubectl)
    store.hand_over(state, content)
    _create(made, kubectl)
    return ours.job(model)


def _with_account(fleet: Fleet) -> Fleet:
    settings = fleet.kubernetes
    components = tuple(dict.fromkeys((*settings.components, ACCOUNT)))
    return fleet.model_copy(update={"kubernetes": settings.model_copy(update={"components": components})})


def _account(fleet: Fleet, account: Sequence[Object], kubectl: Kubectl) -> None:
    """Create the account, unless the manifests have it: then it must exist."""
    if ACCOUNT in fleet.kubernetes.components:
        if kubectl.get("serviceaccount", Names.of(fleet).account) is None:
            raise RolloutError(
                f"the account {Names.of(fleet).account} of the component `{ACCOUNT}` does not exist. Create it with "
                f"`{recommended('k8s apply')}`."
            )
        return
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(account)})
    try:
        kubectl.run("apply", *deployment.server_side(CHANGER), "--validate=strict", input=text)
    except KubectlError as error:
        if "forbidden" not in str(error).lower():
            raise
        raise RolloutError(
            f"{error}. Who may create Roles applies the component `{ACCOUNT}` once; then add it to "
            "`kubernetes.components`."
        ) from None


def _create(made: Object, kubectl: Kubectl, *options: str) -> None:
    kubectl.run("create", "--filename=-", "--validate=strict", *options, input=json.dumps(made))
