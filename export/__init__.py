"""Export: a TensorFlow model becomes a version that carries golden requests and their expected outputs."""
