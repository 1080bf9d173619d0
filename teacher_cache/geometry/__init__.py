"""Camera rays, stitching of windows, and crops and flips that keep one geometry."""
