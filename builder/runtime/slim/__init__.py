"""Takes from libraries what no GPU of an image loads, and what only debuggers read."""
