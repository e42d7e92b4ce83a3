"""The training loop, its optimiser, its record, and the table of methods that it can train."""
