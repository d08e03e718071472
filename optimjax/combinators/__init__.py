"""Transformations in, one transformation out."""
