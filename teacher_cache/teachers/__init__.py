"""Frames in, raw signals out: the frozen experts. Each family is a module or a package that implements one protocol."""
