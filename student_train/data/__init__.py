"""Conversations, frames and targets to batches."""
