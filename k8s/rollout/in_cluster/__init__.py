"""A rollout in the cluster: a Job runs it, with an account of its own."""
