"""Masks of the contents of interest: which pixels of a generated image must be kept well."""
