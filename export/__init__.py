"""Export: a TensorFlow model becomes a version that carries its own proof."""
