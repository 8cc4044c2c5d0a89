"""What refers to a capsule: attestations, bill of materials, attachments."""
