"""The core, which knows no protocol: source, loader, manager, view, and the one place where inference happens."""
