"""Moving blobs: chunks, ranges, partial files."""
