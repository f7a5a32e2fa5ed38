"""Kubernetes, and rollouts on a cluster and on this machine."""
