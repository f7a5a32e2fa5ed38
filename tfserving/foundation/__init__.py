"""What all rooms stand on: TensorFlow Serving's messages and files, without TensorFlow."""
