"""From a list of videos to clips, and from a clip to uint8 frames: listing, sampling, decoding, preprocessing."""
