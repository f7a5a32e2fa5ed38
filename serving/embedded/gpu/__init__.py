"""The GPUs: what each process uses of them, and what it reports about them."""
