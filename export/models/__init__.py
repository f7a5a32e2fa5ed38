"""Sample models, one in each file. Each has a builder: a function `build` without arguments that returns a servable."""
