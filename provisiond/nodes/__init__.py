"""Nodes: their attributes, states, database, and what is asked of them."""
