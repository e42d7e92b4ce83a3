"""The command ``p2es``."""
