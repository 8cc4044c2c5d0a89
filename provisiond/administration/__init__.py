"""What administrators ask of the node server, apart from HTTP."""
