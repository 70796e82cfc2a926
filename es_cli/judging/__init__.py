"""What to believe of a reconstruction where there is no ground truth."""
