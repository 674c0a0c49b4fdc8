"""Data sets: where images come from, how they are split, stored and made into domains."""
