"""A file per verb or group of verbs. They read the command line and show; they decide nothing."""
