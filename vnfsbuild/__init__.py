"""vnfsbuild: from a recipe to a signed VNFS capsule, the same bytes every time."""

__version__ = "0.1.0"
