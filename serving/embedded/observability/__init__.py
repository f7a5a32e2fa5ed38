"""What watches the server: metrics, the server's log, the access log, the request log."""
