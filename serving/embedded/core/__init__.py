"""The core, independent of the protocols: source, loader, manager, view and inference."""
