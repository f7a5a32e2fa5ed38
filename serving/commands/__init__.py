"""The commands that run servers and change what they serve, one module for each."""
