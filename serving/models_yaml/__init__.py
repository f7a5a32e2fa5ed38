"""models.yaml: its schema, how it is read and changed, and its errors."""
