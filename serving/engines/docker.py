"""The engine that runs the tensorflow/serving image. It is not built yet, and says so."""

from __future__ import annotations

from serving.engines import EngineError, Plan, Server


class Docker:
    """TensorFlow Serving in a container."""

    name = "docker"

    def unusable(self) -> str | None:
        """That it is not built yet."""
        return "this version of the toolkit can't run TensorFlow Serving in Docker yet; use native or embedded"

    def start(self, plan: Plan) -> Server:  # noqa: ARG002
        """Raises EngineError."""
        raise EngineError(str(self.unusable()))
