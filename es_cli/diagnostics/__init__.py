"""Can this be learned, with this operator, this group and these splits, on this machine? Measured before any training."""
