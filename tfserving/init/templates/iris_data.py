"""The data: 150 iris flowers of three species (R. A. Fisher, 1936)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILE = Path(__file__).parent / "data" / "iris.csv"
MEASURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
SPECIES = ("setosa", "versicolor", "virginica")
TEST_ROWS = 50


@dataclass(frozen=True)
class Flowers:
    """Flowers: `measures` in cm, shape (flowers, 4), and `labels`, indices of SPECIES."""

    measures: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def inputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the inputs of the model: an array of shape (flowers,) by name."""
        return dict(zip(MEASURES, self.measures.T.copy(), strict=True))


def load() -> tuple[Flowers, Flowers]:
    """Return the flowers to train with and those to test with, the same every time."""
    with FILE.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    measures = [[float(row[name]) for name in MEASURES] for row in rows]
    labels = [SPECIES.index(row["species"]) for row in rows]
    order = np.random.default_rng(1936).permutation(len(rows))
    test, training = order[:TEST_ROWS], order[TEST_ROWS:]
    flowers = Flowers(np.array(measures, np.float32), np.array(labels, np.int64))
    return (
        Flowers(flowers.measures[training], flowers.labels[training]),
        Flowers(flowers.measures[test], flowers.labels[test]),
    )
