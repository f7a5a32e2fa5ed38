"""Changing what the running servers of a fleet serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfserving.foundation.command.hints import typed
from tfserving.foundation.command.progress import Progress
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.options import say

if TYPE_CHECKING:
    from tfserving.serving.models_yaml.fleet import Fleet
    from tfserving.serving.running import Running


def apply(fleet: Fleet, changed: tuple[str, ...], wait: float, *, listed: bool = False) -> bool:
    """Make the running servers serve `fleet`, or check the models `changed` if none runs. Return whether one runs.

    With `listed`, print everything that each server reports afterwards. Raises CommandError.
    """
    from tfserving.serving import admitted, live
    from tfserving.serving.docker import deployment
    from tfserving.serving.engines import refuse
    from tfserving.serving.lint import problems
    from tfserving.serving.running import note, running

    with before_it_starts():
        servers = [(server, server.following(fleet, changed)) for server in running(fleet, deployment.exists)]
        for _, server in servers:
            server.check_trust(fleet)
            refuse(problems(fleet, server.names, container=server.is_container, engine=server.engine), say)
        if servers:
            names = dict.fromkeys(name for _, server in servers for name in server.names)
            with Progress() as progress:
                copied = admitted.admitted_for(fleet, names, progress.update)
        else:
            refuse(problems(fleet, changed, container=False), say)
            admitted.check(fleet, changed)
    with while_it_runs():
        for before, server in servers:
            with Progress() as progress:
                progress.update(f"Waiting for the {server.title}")
                live.apply(copied, server, wait, progress.line)
            if server != before:
                note(fleet, server)
            if listed:
                _list(fleet, before, server)
            elif {*changed} & {*server.names}:
                say(f"The {server.title} is up to date.")
            for name in changed:
                if name not in server.names:
                    say(f"The {server.title} was started without {name}, and still does not serve it.")
    if not servers:
        start = typed("serve", fleet=fleet.file)
        say(f"No server of {fleet.file} is running. The change takes effect when one starts, by `{start}`.")
    return bool(servers)


def _list(fleet: Fleet, before: Running, server: Running) -> None:
    """Print what `server` serves, which served the models of `before`."""
    from tfserving.serving.model_state import lines
    from tfserving.serving.states import states

    say(f"The {server.title} serves:")
    for line in lines(states(fleet, server)[1]):
        say(f"  {line}")
    for name in before.names:
        if name not in server.names:
            say(f"  {name}: unloaded, because {fleet.file.name} does not contain it any more")
