"""The commands of `tfserving export`, a module for each job."""
