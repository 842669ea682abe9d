"""A short benchmark of the runtime itself: which widths it likes, and what a layer costs at any width."""
