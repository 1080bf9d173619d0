"""The store format: objects are created once, and a record of the log, appended last, commits them. Also verify, repair, gc."""
