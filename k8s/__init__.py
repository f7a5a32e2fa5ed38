"""The fleet on Kubernetes, and rollouts: there and on the engines of this machine."""
