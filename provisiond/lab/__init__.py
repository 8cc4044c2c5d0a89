"""The laboratory: virtual nodes on this machine, to try a capsule or to prove that it boots."""
