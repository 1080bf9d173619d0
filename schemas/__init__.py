"""Values that every part shares: what flows between video, teacher, store and student. No I/O, no torch, no zarr, no ray."""
