"""The commands `tfserving k8s` and `tfserving rollout`."""
