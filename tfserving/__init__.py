"""TensorFlow Serving, proven: export models with their proof, serve them, call and verify them, and roll them out."""

__version__ = "0.1.0"
