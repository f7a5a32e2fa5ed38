"""Rollouts: a new version of a model takes over step by step, and goes back by itself when it is worse."""
