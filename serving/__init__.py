"""Runs a model server over the fleet."""
