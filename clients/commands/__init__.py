"""The commands of `python -m clients`, one module for each job. They import what they need when they run."""
