"""Overlays: folders of files and templates, rendered per node."""
