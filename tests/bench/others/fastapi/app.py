"""A FastAPI application around a SavedModel, as one writes it: uvicorn runs it, with its defaults.

The environment variable VERSION names the folder of a SavedModel whose default signature has one input `x`.
"""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = tf.saved_model.load(os.environ["VERSION"])
signature = model.signatures["serving_default"]


class Rows(BaseModel):
    """What is sent."""

    instances: list[Any]


@app.post("/predict")
def predict(rows: Rows) -> dict[str, Any]:
    """What the model returns for each row."""
    outputs = signature(x=tf.constant(rows.instances, tf.float32))
    return {"predictions": outputs["y"].numpy().tolist()}
