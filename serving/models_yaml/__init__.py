"""What is read from models.yaml: the fleet, and how it is served, rolled out and run on Kubernetes."""
