"""Published benchmarks: their files go in; items, prompts and the scores of responses come out. Text only, no model."""
