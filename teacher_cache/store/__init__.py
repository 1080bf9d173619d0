"""The format: objects created once, a ledger entry written last; what verifies, repairs and cleans it."""
