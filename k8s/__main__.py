"""`python -m k8s`."""

from k8s.cli import main

if __name__ == "__main__":
    main(prog_name="python -m k8s")
