"""A store: a directory of capsules, an OCI image layout."""
