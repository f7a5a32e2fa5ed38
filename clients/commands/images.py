"""Images as inputs: their bytes or their pixels, as the signature requires."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserving.clients.results import Signature, TensorInfo
from tfserving.foundation.given import given_bytes
from tfserving.foundation.tensors import BY_NAME, STRING, Array

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DIMENSIONS = 4
# The limit above which Pillow warns.
MOST_PIXELS = 89_478_485


class _MisfitError(ValueError):
    """An image doesn't match the signature."""


@dataclass(frozen=True)
class ImageFile:
    """An image file as an input; it is read later."""

    path: Path


@dataclass(frozen=True)
class Images:
    """How images become tensors: whether they are resized, and the factor of their values, 0 to 255."""

    resize: bool = False
    scale: float = 1.0

    def fitted(self, inputs: Any, signature: Signature) -> Any:
        """Return `inputs` with every image as a batch of one, or without a batch, as `signature` requires.

        Raises ValueError for an image that can't be read or doesn't match.
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
        dtype = BY_NAME.get(info.dtype)
        if dtype is STRING:
            strings = np.empty(() if info.shape == () else 1, np.object_)
            strings[...] = _bytes(image.path)
            return strings
        shape = info.shape
        alone = shape is not None and len(shape) == _DIMENSIONS - 1 and shape[-1] in _MODES
        if dtype is None or dtype.numpy.kind not in "fiuV" or shape is None or not (alone or len(shape) == _DIMENSIONS):
            raise ValueError(
                f"{image.path} is an image, which the input can't hold: "
                f"expected shape (?, HEIGHT, WIDTH, CHANNELS), got {info}"
            )
        pixels = self._pixels(image.path, shape[-3:])
        scaled = pixels if self.scale == 1 else pixels * np.float32(self.scale)
        return scaled.astype(dtype.numpy).reshape(*(() if alone else (1,)), *pixels.shape[:2], -1)

    def _pixels(self, path: Path, shape: tuple[int | None, ...]) -> Array:
        """Return the image in `path` in `shape`: height, width and channels."""
        from PIL import Image

        try:
            # A few bytes can inflate to an image of any size. Pillow only warns at first.
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as opened:
                    return np.asarray(self._sized(opened.convert(_mode(shape[2])), path, shape))
        except _MisfitError:
            raise
        except Exception as error:  # any error of Pillow for a damaged file
            raise ValueError(f"{path} can't be read as an image: {str(error) or type(error).__name__}") from None

    def _sized(self, image: Image, path: Path, shape: tuple[int | None, ...]) -> Image:
        height, width = (want or has for want, has in zip(shape[:2], (image.height, image.width), strict=True))
        if (width, height) == image.size:
            return image
        if height * width > MOST_PIXELS:
            raise _MisfitError(
                f"the signature requires an image {height} high and {width} wide, the limit is {MOST_PIXELS} pixels"
            )
        if not self.resize:
            raise _MisfitError(
                f"{path} is {image.height} high and {image.width} wide, the signature requires {height} and {width}; "
                "add --resize"
            )
        return image.resize((width, height))


def _bytes(path: Path) -> bytes:
    try:
        return given_bytes(path)
    except OSError as error:
        raise ValueError(str(error)) from None


def _mode(channels: int | None) -> str:
    if channels is None:
        return "RGB"
    if channels not in _MODES:
        raise _MisfitError(f"an image has 1, 3 or 4 channels, the signature requires {channels}")
    return _MODES[channels]
