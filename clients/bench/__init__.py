"""Load tests: throughput and latency, measured without coordinated omission."""
