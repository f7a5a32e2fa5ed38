"""The commands that call a model server, one module each. They import what they need when they run."""
