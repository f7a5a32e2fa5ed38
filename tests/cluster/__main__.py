"""`python -m tests.cluster up` starts a Kubernetes cluster on this machine, for tests and by hand; `down` ends it."""

from __future__ import annotations

import os
import signal
import sys

from tests.cluster import node

USAGE = """\
Usage: python -m tests.cluster COMMAND

  build       Build Kubernetes and what belongs to it; `up` does it, too.
  up          Start a cluster; prints what a shell is to evaluate.
  load IMAGE  Give the cluster an image of the Docker Engine of DOCKER_HOST.
  down        End the cluster, or what is left of one; leaves the machine as it was.
"""


def main(words: list[str]) -> int:
    """Does what the command says."""
    # So that what was started is ended, as it is by Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    match words:
        case ["build"]:
            node.build()
        case ["up"]:
            if reason := node.unusable():
                print(f"Error: no cluster can run here: {reason}", file=sys.stderr)
                return 1
            node.up(lambda line: print(line, file=sys.stderr, flush=True))
            print(f"export KUBECONFIG={node.KUBECONFIG}")
        case ["load", image]:
            node.own().load_image(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), image)
        case ["down"]:
            node.down()
        case _:
            print(USAGE, end="", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
