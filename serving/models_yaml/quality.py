"""How good a new version must be: what models.yaml may say of metrics, labelled rows, and drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator

from tfserving.foundation.quality import FUNCTION, MEASURES
from tfserving.serving.models_yaml.server import Strict

SUFFIXES = (".npz", ".jsonl")


class Limits(Strict):
    """How far a metric may go: `at_least` and `drop` where higher is better, `at_most` and `rise` where lower is."""

    at_least: Annotated[float | None, Field(description="The lowest value, of a metric that is better higher.")] = None
    drop: Annotated[
        float | None, Field(ge=0, description="How much lower than in the version before it may be, in its own unit.")
    ] = None
    at_most: Annotated[float | None, Field(description="The highest value, of a metric that is better lower.")] = None
    rise: Annotated[
        float | None, Field(ge=0, description="How much higher than in the version before it may be, in its own unit.")
    ] = None

    @model_validator(mode="after")
    def _go_one_way(self) -> Limits:
        if self._for_higher and self._for_lower:
            higher, lower = ", ".join(self._for_higher), ", ".join(self._for_lower)
            raise ValueError(f"{higher} is for a metric that is better higher, {lower} for one that is better lower")
        return self

    @property
    def upward(self) -> bool | None:
        """Which way is better; None when nothing is said."""
        return bool(self._for_higher) if self._for_higher or self._for_lower else None

    @property
    def worse(self) -> float | None:
        """How much worse than the version before a version may be; None when that isn't said."""
        return self.drop if self.rise is None else self.rise

    @property
    def bound(self) -> float | None:
        """The worst value; None when there is none."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def _for_higher(self) -> list[str]:
        return [key for key in ("at_least", "drop") if getattr(self, key) is not None]

    @property
    def _for_lower(self) -> list[str]:
        return [key for key in ("at_most", "rise") if getattr(self, key) is not None]


class MetricLimits(Limits):
    """The limits of a metric of manifests."""

    @model_validator(mode="after")
    def _says_something(self) -> MetricLimits:
        if self.upward is None:
            raise ValueError("it says nothing; at_least, drop, at_most or rise is needed")
        return self


class LabelledRows(Limits):
    """The labelled rows with which served versions are measured, and how. Without a file or builder: the version's."""

    file: Annotated[
        Path | None,
        Field(
            description="A .npz file with an array for each input and one called `labels`, or a .jsonl file with a "
            "REST predict request and its `labels` a line. Relative to the file that says it."
        ),
    ] = None
    builder: Annotated[
        str | None,
        Field(
            description="A function, as 'module:function', that returns a tfserving.export.servable.Evaluation.",
            pattern=f"^{FUNCTION.pattern}$",
        ),
    ] = None
    metric: Annotated[
        str | None,
        Field(
            description="accuracy, auc, mae, or a function as 'module:function'. When not given: mae for labels that "
            "are floats, else accuracy."
        ),
    ] = None
    output: Annotated[
        str | None, Field(description="The output that is measured; may be left out where the signature has one only.")
    ] = None
    signature: Annotated[str | None, Field(description="When not given: serving_default.")] = None
    higher_is_better: Annotated[bool | None, Field(description="Goes with a function of your own.")] = None

    @model_validator(mode="before")
    @classmethod
    def _reads_one_word(cls, said: Any) -> Any:
        if isinstance(said, str):
            return {"builder" if FUNCTION.fullmatch(said) else "file": said}
        return said

    @field_validator("file")
    @classmethod
    def _file_is_known(cls, file: Path | None) -> Path | None:
        if file is not None and file.suffix not in SUFFIXES:
            raise ValueError(f"{str(file)!r} is neither 'module:function' nor a file with {' or '.join(SUFFIXES)}")
        return file

    @field_validator("metric")
    @classmethod
    def _metric_is_one(cls, metric: str | None) -> str | None:
        if metric is not None and metric not in MEASURES and not FUNCTION.fullmatch(metric):
            raise ValueError(f"{metric!r} is none of {', '.join(MEASURES)}, nor a function as 'module:function'")
        return metric

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> LabelledRows:
        if self.file and self.builder:
            raise ValueError("there is a file and a builder; one of them has the rows")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """As one word, too: the file or the builder."""
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [schema, {"type": "string"}], "description": schema.pop("description", "")}


class Drift(Strict):
    """How far answers to the same requests may move. What is not said is printed only."""

    labels: Annotated[
        float | None, Field(ge=0, le=1, description="The largest share of rows that may get another label.")
    ] = None
    scores: Annotated[
        float | None,
        Field(ge=0, description="The largest distance between the distributions of an output, in the output's unit."),
    ] = None
