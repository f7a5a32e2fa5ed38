"""The server in Docker Compose with Prometheus, Grafana, and a proxy for TLS and traffic splits."""
