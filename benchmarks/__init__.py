"""What the numbers in the docs come from: see README.md."""
