"""What everything else stands on: settings, leads, demographics, paths, errors, and what every method has in common."""
