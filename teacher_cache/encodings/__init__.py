"""A clip's raw signals in, stored arrays out, and back; each encoding has a stated error bound."""
