"""TensorFlow Serving in containers: one server by the Docker SDK, images with a fleet inside."""
