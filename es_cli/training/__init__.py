"""Training: the loop that yields events, and the run that consumes them."""
