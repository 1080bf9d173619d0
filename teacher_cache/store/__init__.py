"""The store format: objects are created once, and a ledger entry, written last, commits them. Also verify, repair and clean."""
