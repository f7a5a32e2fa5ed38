"""The subcommands of `python -m serving`, one module for those that belong together."""
