"""The commands of `tfserving client`, one module for each job. They import what they need when they run."""
