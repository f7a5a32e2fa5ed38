"""REST as TensorFlow Serving has it: one pool for all, no probes, and every request of a model is counted."""

from __future__ import annotations

import re
import time

from tfserving.serving.embedded.errors import RequestError
from tfserving.serving.embedded.observability import metrics
from tfserving.serving.embedded.rest.face import Place, RestFace
from tfserving.serving.embedded.rest.http import Request, Response
from tfserving.serving.embedded.rest.urls import unescape


class Face(RestFace):
    """The embedded server's REST, as the real one has it."""

    def place(self, request: Request) -> Place:  # noqa: ARG002 - whatever it is
        """Among the predictions."""
        return Place.PREDICTIONS

    def _probe(self, match: re.Match[bytes]) -> Response | None:  # type: ignore[override]  # noqa: ARG002
        return None

    def _describe(self, match: re.Match[bytes]) -> Response:
        model = unescape(match["model"]) or ""
        started = time.monotonic()
        try:
            response = super()._describe(match)
        except RequestError as error:
            metrics.count_failure(model, error)
            raise
        metrics.count_success(model, "", "REST", started)
        return response
