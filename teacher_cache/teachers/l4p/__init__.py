"""Clips in, F4D and four maps out: L4P's video encoder and dense heads, in the published size and a small, packaged one."""
