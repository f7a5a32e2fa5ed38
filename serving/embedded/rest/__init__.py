"""The REST face: TensorFlow Serving's URLs and JSON over the core."""
