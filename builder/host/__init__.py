"""The host below the container: what it should be set to, and how its GPUs are divided."""
