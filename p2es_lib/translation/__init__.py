"""Your own PPG, from a file or live: read, judged, translated and written."""
