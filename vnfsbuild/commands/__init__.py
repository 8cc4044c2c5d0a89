"""A file per verb: options in, a function of ours called, its answer printed. No decisions."""
