"""Networks of our own, equivariant by construction, and what is done to any network before training: weights from files, frozen parts."""
