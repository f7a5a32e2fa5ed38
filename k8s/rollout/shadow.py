"""Captured requests replayed to both versions before any client moves: failures, latency, and drift."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tfserving.clients.busy import Patient
from tfserving.clients.capture import CapturedRequest, CaptureError, read_requests, sampled
from tfserving.clients.errors import ServingError
from tfserving.k8s.rollout.drift import Moved
from tfserving.k8s.rollout.pairs import Pair, paired
from tfserving.k8s.rollout.state import Figure
from tfserving.k8s.rollout.target import GateError, Reached
from tfserving.serving.models_yaml.fleet import Fleet
