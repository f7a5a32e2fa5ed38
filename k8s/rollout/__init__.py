"""Rollouts: move clients to a new version step by step, with checks and an automatic rollback."""
