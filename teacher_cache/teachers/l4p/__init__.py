"""L4P: a video encoder and four dense heads, at the published size and at a small one that is packaged."""
