"""`tfserving doctor`: what this machine has, and what `tfserving serve` will use."""
