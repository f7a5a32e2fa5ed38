"""Commands that messages recommend, with the options of the command that runs."""

from __future__ import annotations

import shlex

import click

from tfserving.foundation.command.hints import typed


def recommended(words: str) -> str:
    """Return the command line of `tfserving WORDS` that works on the same fleet, cluster and namespace as this command.

    `rollout` takes --cluster, --namespace, --context and --direct, `k8s` takes --context.
    """
    context = click.get_current_context(silent=True)
    given = context.params if context else {}
    options = []
    if words.startswith("rollout "):
        on_cluster = given.get("cluster") or given.get("in_cluster")
        options += ["--cluster"] if on_cluster and "--cluster" not in words else []
        options += ["--namespace", given["namespace"]] if given.get("namespace") else []
        options += ["--direct"] if given.get("direct") else []
    if words.startswith(("rollout ", "k8s ")) and given.get("context"):
        options += ["--context", given["context"]]
    return typed(" ".join([words, *map(shlex.quote, options)]), fleet=given.get("fleet"))
