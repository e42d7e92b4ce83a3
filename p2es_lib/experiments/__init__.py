"""Which variants there are, and how a run of one is made, found, scored, compared and judged."""
