"""How many threads TensorFlow Serving makes, and so which limit of them its container needs.

    at the start, up to 4 for each CPU versions load at a time ──► 256 threads for each of them, until it is loaded
    gRPC ──► a thread for each call, at most --grpc_max_threads
    REST ──► --rest_api_num_threads, from the start
    TensorFlow ──► pools of as many threads as CPUs

Seen on TensorFlow Serving 2.20 with 2 CPUs: with a limit of 768 it aborts, `Thread tf_ModelDiskSizePool creation via
pthread_create() failed`. It counts the machine's CPUs, whatever part of them a container gets.
"""

from __future__ import annotations

import os

from tfserving.serving.docker.image_names import is_embedded
from tfserving.serving.models_yaml.fleet import Fleet
from tfserving.serving.served import loaded

LOADING = 256
LOADING_AT_A_TIME_PER_CPU = 4
# Pools of TensorFlow and gRPC, for each CPU, and what doesn't depend on CPUs.
_OTHERS_PER_CPU, _OTHERS = 16, 128
_EMBEDDED = 512
_FEWEST = 4096


def needed(fleet: Fleet, names: tuple[str, ...]) -> int:
    """The least limit of processes and threads with which a container of this machine loads the models `names`."""
    server = fleet.server
    if is_embedded(server.image_name):
        return _EMBEDDED
    cpus = os.cpu_count() or 1
    versions = sum(len(loaded(fleet, name)) for name in names)
    loading = LOADING * min(versions, LOADING_AT_A_TIME_PER_CPU * cpus)
    return loading + server.grpc_max_threads + server.rest_api_num_threads + _OTHERS_PER_CPU * cpus + _OTHERS


def pids(fleet: Fleet, names: tuple[str, ...]) -> int:
    """The limit where models.yaml gives none: room for models that come later."""
    return max(_FEWEST, needed(fleet, names))
