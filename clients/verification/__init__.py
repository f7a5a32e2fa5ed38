"""Verification: the outputs of a server, compared with the golden outputs or with another server."""
