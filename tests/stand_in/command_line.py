"""The command line of tensorflow_model_server: which words it knows, and what it prints of the others."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import click

from tfserving.serving.embedded.command_line import command
from tfserving.serving.embedded.flags import NO_EFFECT, OWN, Flags

VERSION = "2.21.0"
# What `return -1` of a C++ program is to its parent.
FAILED = 255
_HINTS = {name: get_args(hint) for name, hint in get_type_hints(Flags, include_extras=True).items()}
# Its flags, and the type of each.
KNOWN: dict[str, Any] = {
    **{name: kind for name, (kind, _) in NO_EFFECT.items()},
    **{name: hint[1] for name, hint in _HINTS.items() if name not in OWN},
    # It counts whole seconds.
    "model_config_file_poll_wait_seconds": click.INT,
    "file_system_poll_wait_seconds": click.INT,
    "version": click.BOOL,
}
# It knows no limits but those of its own flags, checks nothing that the embedded server checks, explains nothing, and
# listens on all addresses.
HABITS = {
    "host": "0.0.0.0",  # noqa: S104
    "explain_errors": "false",
    "check_shapes": "false",
    "allow_file_and_python_ops": "true",
    **{
        flag.name: "0"
        for flag in fields(Flags)
        if flag.name.startswith(("max_body", "max_json", "max_grpc", "max_run", "grpc_receive"))
        or (flag.name.startswith("rest_api_") and flag.name not in KNOWN and flag.name != "rest_api_enable_tls")
    },
}


class WrongFlagError(Exception):
    """A flag's value can't be read."""


def read_flags(words: list[str]) -> Flags | None:
    """What the command line says, with the real server's habits; None for `--version`, which is printed.

    A word that is no flag is reported, and has no other effect. Raises WrongFlagError.
    """
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        kind = KNOWN.get(name)
        if not word.startswith("--") or kind is None or not (equals or kind is click.BOOL):
            print(f"unknown argument: {word}", file=sys.stderr, flush=True)
            continue
        given[name] = value if equals else "true"
        try:
            kind.convert(given[name], None, None)
        except click.BadParameter:
            raise WrongFlagError(f"Couldn't interpret value {given[name]} for flag {name}.") from None
    if given.pop("version", "false") == "true":
        print(f"TensorFlow ModelServer: {VERSION}\nTensorFlow Library: {VERSION}", flush=True)
        return None
    return _flags({name: value for name, value in given.items() if name not in NO_EFFECT})


def _flags(given: dict[str, str]) -> Flags:
    kept: list[Flags] = []

    def keep(flags: Flags) -> int:
        kept.append(flags)
        return 0

    words = [f"--{name}={value}" for name, value in {**given, **HABITS}.items()]
    try:
        command(keep).main(words, standalone_mode=False)
    except SystemExit:
        return kept[0]
    except click.ClickException as error:
        raise WrongFlagError(error.format_message()) from None
    raise AssertionError(f"{words} were not read")
