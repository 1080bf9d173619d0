"""A list of videos in; clips, and their uint8 frames, out: listing, sampling, decoding, preprocessing."""
