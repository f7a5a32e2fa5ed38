"""The embedded server: TensorFlow Serving's protocols and flags over TensorFlow in this Python process."""
