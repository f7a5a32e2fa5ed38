"""What watches the server: metrics, the access log, the request log."""
