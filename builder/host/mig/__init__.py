"""Multi-Instance GPU: layouts of a card, the commands that make them, and what fits into one."""
