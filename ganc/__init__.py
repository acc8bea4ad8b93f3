"""ganc: make trained GANs small and fast."""
