"""Payload formats, one module each: argv made purely, then the program run."""
