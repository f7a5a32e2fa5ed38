"""The server with what watches it, by Docker Compose: Prometheus, Grafana, and a proxy for TLS and traffic splits."""
