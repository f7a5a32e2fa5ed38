"""The commands of `tfserving k8s`."""
