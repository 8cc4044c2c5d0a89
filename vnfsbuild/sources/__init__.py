"""Package sources: where packages come from, and what the distribution's own solver says."""
