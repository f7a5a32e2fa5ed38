"""The processes of a server: how they start, share the ports, change versions together, and are replaced."""
