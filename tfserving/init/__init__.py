"""`tfserving init`: a new project."""
