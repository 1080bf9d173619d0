"""A store as an HTML page, and a clip as a Rerun recording."""
