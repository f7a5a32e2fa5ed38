"""TensorFlow Serving in containers: a server that the Docker SDK runs, and images that contain models."""
