"""Versions where they are published: in a folder, an object store or a registry. They are listed, and fetched."""
