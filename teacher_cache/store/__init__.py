"""The store: objects created once, a ledger written last, and the reader."""
