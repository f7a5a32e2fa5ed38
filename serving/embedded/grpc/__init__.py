"""The gRPC face: TensorFlow Serving's services over the core."""
