"""The small L4P that this project trained itself: its weights, its card, and the script that makes them."""
