"""Files and pipes of measurements → images in files and pipes, one after another: what `es reconstruct` does around the network."""
