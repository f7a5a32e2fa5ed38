"""Versions in OCI registries: an image for each version, which containerd unpacks and `oras pull` fetches."""
