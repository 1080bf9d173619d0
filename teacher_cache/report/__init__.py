"""A store in, an HTML page out; a clip in, a Rerun recording out."""
