"""Nodes as other systems have them: text → drafts of our nodes. Pure."""
