"""How good a new version must be: the keys of models.yaml for metrics, labelled rows and drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator

from tfserving.foundation.quality import FUNCTION, MEASURES
from tfserving.serving.models_yaml import patterns
from tfserving.serving.models_yaml.server import Strict

SUFFIXES = (".npz", ".jsonl")


class Limits(Strict):
    """Limits of a metric: `at_least` and `drop` if higher is better, `at_most` and `rise` if lower is better."""

    at_least: Annotated[float | None, Field(description="The lowest value, if higher is better.")] = None
    drop: Annotated[float | None, Field(ge=0, description="The largest decrease from the previous version.")] = None
    at_most: Annotated[float | None, Field(description="The highest value, if lower is better.")] = None
    rise: Annotated[float | None, Field(ge=0, description="The largest increase from the previous version.")] = None

    @model_validator(mode="after")
    def _go_one_way(self) -> Limits:
        if self._for_higher and self._for_lower:
            higher, lower = ", ".join(self._for_higher), ", ".join(self._for_lower)
            raise ValueError(
                f"{higher} is for metrics where higher is better, {lower} is for metrics where lower is better"
            )
        return self

    @property
    def upward(self) -> bool | None:
        """Whether higher is better; None without limits."""
        return bool(self._for_higher) if self._for_higher or self._for_lower else None

    @property
    def worse(self) -> float | None:
        """How much worse than the previous version a version may be; None without such a limit."""
        return self.drop if self.rise is None else self.rise

    @property
    def bound(self) -> float | None:
        """The worst allowed value; None without such a limit."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def _for_higher(self) -> list[str]:
        return [key for key in ("at_least", "drop") if getattr(self, key) is not None]

    @property
    def _for_lower(self) -> list[str]:
        return [key for key in ("at_most", "rise") if getattr(self, key) is not None]


class MetricLimits(Limits):
    """Limits of a metric in manifests."""

    @model_validator(mode="after")
    def _set_a_limit(self) -> MetricLimits:
        if self.upward is None:
            raise ValueError("no limit is set; expected at_least, drop, at_most or rise")
        return self


class LabelledRows(Limits):
    """The labelled rows that served versions are measured with. Default: the rows in the version."""

    file: Annotated[
        Path | None,
        Field(
            description="A .npz file with an array for each input and one called `labels`, or a .jsonl file with a "
            "REST predict request and its `labels` on each line. Relative to models.yaml."
        ),
    ] = None
    builder: Annotated[
        str | None,
        Field(
            description="A function, as 'module:function', that returns a tfserving.export.servable.Evaluation.",
            pattern=patterns.FUNCTION,
        ),
    ] = None
    metric: Annotated[
        str | None,
        Field(
            description="accuracy, auc, mae, or a function as 'module:function'. Default: mae if the labels are "
            "floats, else accuracy."
        ),
    ] = None
    output: Annotated[
        str | None, Field(description="The output to measure. Not needed if the signature has one output.")
    ] = None
    signature: Annotated[str | None, Field(description="The signature to measure. Default: serving_default.")] = None
    higher_is_better: Annotated[
        bool | None, Field(description="For a function as `metric`: whether a higher value is better.")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _allow_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"builder" if FUNCTION.fullmatch(value) else "file": value}
        return value

    @field_validator("file")
    @classmethod
    def _file_is_known(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix not in SUFFIXES:
            raise ValueError(
                f"got {str(file)!r}, expected 'module:function' or a file that ends with {' or '.join(SUFFIXES)}"
            )
        return file

    @field_validator("metric")
    @classmethod
    def _metric_is_one(cls, metric: str | None) -> str | None:
        if metric is not None and metric not in MEASURES and not FUNCTION.fullmatch(metric):
            raise ValueError(f"got {metric!r}, expected {', '.join(MEASURES)} or a function as 'module:function'")
        return metric

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> LabelledRows:
        if self.file and self.builder:
            raise ValueError("both file and builder are set; expected one of them")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Also allow text: the file or the builder."""
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [schema, {"type": "string"}], "description": schema.pop("description", "")}


class Drift(Strict):
    """How much responses to the same requests may change. Without a limit, the change is only printed."""

    labels: Annotated[
        float | None, Field(ge=0, le=1, description="The largest share of rows whose predicted label changes.")
    ] = None
    scores: Annotated[
        float | None,
        Field(ge=0, description="The largest distance between an output's distributions, in the unit of the output."),
    ] = None
