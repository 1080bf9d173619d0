"""Events of a run, or the growth of a store, shown in a terminal or written to a log."""
