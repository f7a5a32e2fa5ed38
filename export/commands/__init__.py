"""The commands of `python -m export`, a module for each job."""
