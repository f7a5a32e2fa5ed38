"""What is printed when a server is ready: its models, its addresses, and how to send a request."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfserving.foundation.command.hints import DEFAULT_SERVER, typed

if TYPE_CHECKING:
    from tfserving.serving.engines import Plan

# A longer body isn't printed, but the command that prints it.
LONGEST_BODY = 120


def banner(plan: Plan, engine: str, versions: Mapping[str, int], last: Sequence[str]) -> str:
    """Return the text for a server with every model available, `versions` by served name; it ends with `last`.

    On a machine with GPUs it names the device.
    """
    from tfserving.serving.commands.devices import device_of
    from tfserving.serving.served import all_served, summary

    device = device_of(plan, engine)

    width = max(map(len, versions))
    served = {one.name: one for one in all_served(plan.fleet, plan.names)}
    return "\n".join(
        [
            f"Serving {len(plan.names)} model{'s' * (len(plan.names) > 1)} with the {engine} server:",
            *(
                f"  {name:<{width}}  {summary(plan.fleet, served[name], version, served.values())}"
                for name, version in versions.items()
            ),
            f"gRPC  {plan.grpc_address}{', with TLS' * (plan.fleet.server.tls is not None)}",
            f"REST  http://{plan.rest_address}",
            *([f"Device  {device}"] if device else ()),
            "Send a request from another shell:",
            *(f"  {line}" for line in _requests(plan, *next(iter(versions.items())))),
            *(
                [f"A version that is signed later is loaded by `{typed('serve reload', fleet=plan.fleet.file)}`."]
                if plan.fleet.trust
                else ()
            ),
            *last,
        ]
    )


def _requests(plan: Plan, name: str, version: int) -> list[str]:
    """Return commands that send a request to model `name`. A version without golden requests has none to send."""
    from tfserving.clients.rest_json import predict_request
    from tfserving.foundation.golden import GoldenError, read_golden

    file, url = plan.fleet.file, f"http://{plan.rest_address}/v1/models/{name}"
    try:
        golden = read_golden(plan.fleet.model_folder(name) / str(version)).requests
        first = next(request for request in golden if request.method == "predict")
        body = predict_request(first.signature, first.inputs).decode()
    # Without golden requests, or with none that REST can carry.
    except (GoldenError, StopIteration, TypeError):
        return [typed(f"metadata {name}", server=_server(plan)), f"curl -s {url}/metadata"]
    quoted = shlex.quote(body)
    if len(body) > LONGEST_BODY:
        quoted = f'"$({typed(f"predict {name} --print-body", fleet=file)})"'
    return [typed(f"predict {name}", fleet=file, server=_server(plan)), f"curl -s -d {quoted} {url}:predict"]


def _server(plan: Plan) -> str:
    """Return the value of --server for the server of `plan`; with TLS on gRPC it is REST, which has none."""
    rest = f"http://{plan.rest_address}"
    if plan.fleet.server.tls is not None:
        return rest
    grpc = f"grpc://{plan.grpc_address}"
    return DEFAULT_SERVER if f"{grpc},{rest}" == DEFAULT_SERVER else grpc
