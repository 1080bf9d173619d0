"""Conversations, videos and cached targets go in; batches come out."""
