"""Events of a run, or the state of a growing store, in; a live view in a terminal, or log lines, out."""
