"""The small L4P that this project trained: its weights, its model card, and the training script."""
