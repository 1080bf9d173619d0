"""Maps and camera rays in; the same in another frame, view or length out: similarities, stitching, crops and flips."""
