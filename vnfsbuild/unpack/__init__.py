"""File systems of layers, read from a file where they lie: no mount, no privilege, no program."""
