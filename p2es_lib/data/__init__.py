"""Recordings: where they come from, how they are fetched, cleaned, cut into windows, stored and batched."""
