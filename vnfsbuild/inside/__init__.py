"""Looking inside a capsule."""
