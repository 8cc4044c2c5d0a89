"""OCI registries: push and pull, and what other programs wrote."""
