"""Keys, signers, and the changing of trust.json."""
