"""The subcommands of `tfserving serve`, one module for those that belong together."""
