"""Images as inputs: their bytes, or their pixels, as the signature wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserving.clients.answers import Signature, TensorInfo
from tfserving.foundation.tensors import BY_NAME, STRING, Array

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DIMENSIONS = 4


@dataclass(frozen=True)
class ImageFile:
    """An image that was given as an input, not read yet."""

    path: Path


@dataclass(frozen=True)
class Images:
    """How images become tensors: whether they may be resized, and what their values, 0 to 255, are multiplied by."""

    resize: bool = False
    scale: float = 1.0

    def fitted(self, inputs: Any, signature: Signature) -> Any:
        """`inputs` with every image in it made a batch of one, of the type that `signature` wants.

        Raises ValueError for an image that can't be read or doesn't fit.
        """
        if isinstance(inputs, ImageFile):
            (only, *more) = signature.inputs.values()
            return inputs if more else self._array(inputs, only)
        if not isinstance(inputs, Mapping):
            return inputs
        return {
            name: self._array(value, signature.inputs[name])
            if isinstance(value, ImageFile) and name in signature.inputs
            else value
            for name, value in inputs.items()
        }

    def _array(self, image: ImageFile, info: TensorInfo) -> Array:
        from PIL import Image, UnidentifiedImageError

        dtype = BY_NAME.get(info.dtype)
        if dtype is STRING:
            strings = np.empty(1, np.object_)
            strings[0] = image.path.read_bytes()
            return strings
        shape = info.shape
        if dtype is None or dtype.numpy.kind not in "fiuV" or shape is None or len(shape) != _DIMENSIONS:
            raise ValueError(f"{image.path} is an image, and {info} holds none: (-1, HEIGHT, WIDTH, CHANNELS) does")
        try:
            with Image.open(image.path) as opened:
                pixels = np.asarray(self._sized(opened.convert(_mode(shape[3])), image.path, shape))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{image.path} can't be read as an image: {error}") from None
        scaled = pixels if self.scale == 1 else pixels * np.float32(self.scale)
        return scaled.astype(dtype.numpy).reshape(1, *pixels.shape[:2], -1)

    def _sized(self, image: Image, path: Path, shape: tuple[int | None, ...]) -> Image:
        height, width = (want or has for want, has in zip(shape[1:3], (image.height, image.width), strict=True))
        if (width, height) == image.size:
            return image
        if not self.resize:
            raise ValueError(
                f"{path} is {image.height} high and {image.width} wide, the signature wants {height} and {width}; "
                "--resize makes it so"
            )
        return image.resize((width, height))


def _mode(channels: int | None) -> str:
    if channels is None:
        return "RGB"
    if channels not in _MODES:
        raise ValueError(f"an image has 1, 3 or 4 channels, the signature wants {channels}")
    return _MODES[channels]
