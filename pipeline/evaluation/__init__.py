"""Judges, and everything that is measured of a model or of the data itself."""
