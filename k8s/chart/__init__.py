"""The Helm chart of a fleet, made from its rendered manifests."""
