"""Frozen experts: from frames to raw signals. One file per family, behind one protocol."""
