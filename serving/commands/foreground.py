"""`serve [MODEL]...`: a server that lives as long as its command."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from tfserving.foundation.command.errors import FAILED, WRONG, CommandError
from tfserving.foundation.command.options import fleet_option, models_argument, wait_option
from tfserving.foundation.command.progress import Progress
from tfserving.foundation.command.suggest import closest
from tfserving.serving.commands.banner import banner
from tfserving.serving.commands.failures import before_it_starts, while_it_runs
from tfserving.serving.commands.missing import export_missing, without_version
from tfserving.serving.commands.options import engine_option, export_option, port_options, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tfserving.serving.engines import Engine, Plan, Server
    from tfserving.serving.models_yaml.fleet import Fleet


@click.command()
@models_argument
@fleet_option
@engine_option
@port_options
@export_option
@wait_option
def foreground(
    names: tuple[str, ...],
    fleet: Path,
    engine: str,
    host: str,
    port: int,
    rest_port: int,
    no_export: bool,
    wait: float,
) -> None:
    """Run a server until Ctrl-C or SIGTERM."""
    from tfserving.serving import admitted, engines
    from tfserving.serving.engines.choice import choose
    from tfserving.serving.gpu_lint import missing_gpus
    from tfserving.serving.lint import problems, settings_problems
    from tfserving.serving.models_yaml.fleet import read_fleet

    with before_it_starts():
        read = read_fleet(fleet)
        _refuse_commands(read, names)
        plan = engines.Plan(read, read.select(names), host, port, rest_port, whole=not names)
        engines.refuse(settings_problems(read), lambda _: None)
        engines.check(plan)
        missing = without_version(read, plan.names, export=not no_export)
        with Progress() as progress:
            chosen = choose(engine, read, progress)
        export_missing(read, missing)
        container = chosen.name == "docker"
        lacking = () if container else missing_gpus(read.server)
        engines.refuse([*lacking, *problems(read, plan.names, container=container, engine=chosen.name)], say)
        with Progress() as progress:
            plan = dataclasses.replace(plan, fleet=admitted.admitted_for(read, plan.names, progress.update))
    _run(plan, chosen, wait)


def _run(plan: Plan, engine: Engine, wait: float) -> None:
    """Start a server, wait until its models are available, and end with it or end it."""
    from tfserving.serving import admitted
    from tfserving.serving.engines.exit_codes import meaning

    # The end of the terminal ends the server, too. Where it is ignored, as under nohup, it stays so.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    server, ready = None, False
    try:
        with while_it_runs():
            with Progress() as progress:
                what = f"Starting the {engine.name} server for {', '.join(plan.names)}"
                progress.line(f"{what} …")
                progress.update(what)
                server = engine.start(plan)
                admitted.release()
                versions = server.wait_until_ready(wait, progress.update)
            ready = True
            click.echo(banner(plan, engine.name, versions, ["Ctrl-C stops it."]))
            code = server.wait()
        raise CommandError(f"the {engine.name} server ended by itself: {meaning(code)}", FAILED)
    except KeyboardInterrupt:
        if server is None or not ready:
            raise
        _drain(server)
    finally:
        if server:
            server.stop()
            with while_it_runs():
                admitted.clean(plan.fleet)


def _drain(server: Server) -> None:
    """Drain and end a server. A second Ctrl-C ends it at once."""
    say("\nDraining. Ctrl-C again stops it at once …")
    try:
        code = server.stop()
    except KeyboardInterrupt:
        server.kill()
        say("\nRequests in flight are cut off.")
        raise
    say("Stopped." if code in (0, -signal.SIGTERM) else f"Stopped, with exit code {code} of the server.")


def _refuse_commands(fleet: Fleet, names: Iterable[str]) -> None:
    """Raise CommandError for a name that is no model but is like a subcommand of `serve`."""
    group = click.get_current_context().command
    commands = group.list_commands(click.get_current_context()) if isinstance(group, click.Group) else ()
    for name in names:
        found = closest(name, [*fleet.models, *commands])
        if name not in fleet.models and found in commands and found not in fleet.models:
            models = ", ".join(fleet.models)
            raise CommandError(
                f"no model is called {name!r}; the fleet has {models}. Did you mean the command `serve {found}`?",
                WRONG,
            )


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
