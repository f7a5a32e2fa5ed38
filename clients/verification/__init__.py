"""Verification: what is served, compared with the golden requests or with another server."""
