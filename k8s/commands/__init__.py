"""The commands of `python -m k8s`."""
