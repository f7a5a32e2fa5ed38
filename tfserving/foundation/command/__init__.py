"""What all commands share: groups, options, errors, progress, and the commands that messages recommend."""
