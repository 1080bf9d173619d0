"""Frozen experts: from frames to raw signals. Each family is a module or a folder behind one protocol."""
