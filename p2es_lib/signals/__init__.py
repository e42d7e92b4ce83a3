"""One-dimensional signals: filters and transforms, beats and pulses, their quality and which way they point."""
