"""Children that do what can't be trusted: confined, watched, and ended with all that they started."""
