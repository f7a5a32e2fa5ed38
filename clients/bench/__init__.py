"""Load on a model server, and what it makes of it: throughput and latencies, measured without coordinated omission."""
