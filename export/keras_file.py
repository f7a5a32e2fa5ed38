"""Models from `.keras` files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from tfserving.export.errors import BuilderError


def load_keras(path: str | Path, **kwargs: Any) -> Any:
    """The Keras model in the `.keras` file `path`, as `keras.saving.load_model` loads it with `kwargs`.

    Raises BuilderError when there is no such file, it is none, or it uses something that isn't registered here.
    """
    import keras

    path = Path(path)
    if not path.is_file():
        raise BuilderError(f"{path}: there is no such file")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise BuilderError(f"{path} is no .keras file, as model.save('name.keras') writes it, or a damaged one")
    try:
        return keras.saving.load_model(path, **kwargs)
    except (TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        # Keras answers with the whole configuration; what it is about comes first.
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BuilderError(
            f"{path} can't be loaded: {said[:300]}\n  A layer, activation or loss of one's own needs get_config() and "
            "@keras.saving.register_keras_serializable(), and its module imported before the file is loaded"
        ) from None
