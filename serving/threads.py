"""The number of threads of TensorFlow Serving, and so the limit that its container needs.

    loading       256 threads for each version until it is loaded; at the start up to 4 versions per CPU at a time
    gRPC          a thread for each call, at most --grpc_max_threads
    REST          --rest_api_num_threads, from the start
    TensorFlow    pools with a thread per CPU

Seen on TensorFlow Serving 2.20 with 2 CPUs: with a limit of 768 it aborts, `Thread tf_ModelDiskSizePool creation via
pthread_create() failed`. It uses the number of the machine's CPUs, even if a container gets a part of them.
"""

from __future__ import annotations

import os

from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.served import loaded

LOADING = 256
LOADING_AT_A_TIME_PER_CPU = 4
# Pools of TensorFlow and gRPC for each CPU, and threads that don't depend on CPUs.
_OTHERS_PER_CPU, _OTHERS = 16, 128
_EMBEDDED = 512
_FEWEST = 4096


def needed(fleet: Fleet, names: tuple[str, ...]) -> int:
    """Return the lowest limit of processes and threads with which a container here can load the models `names`."""
    server = fleet.server
    if is_embedded(server.image_name):
        return _EMBEDDED
    cpus = os.cpu_count() or 1
    versions = sum(len(loaded(fleet, name)) for name in names)
    loading = LOADING * min(versions, LOADING_AT_A_TIME_PER_CPU * cpus)
    return loading + server.grpc_max_threads + server.rest_api_num_threads + _OTHERS_PER_CPU * cpus + _OTHERS


def pids(fleet: Fleet, names: tuple[str, ...]) -> int:
    """Return the default limit, with room for models that are added later."""
    return max(_FEWEST, needed(fleet, names))
