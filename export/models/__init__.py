"""Sample models, one a file; each has a function `build` without arguments that returns a servable."""
