"""From a video's uri to a clip's uint8 frames: listing, sampling, decoding, preprocessing."""
