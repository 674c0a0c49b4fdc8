"""The page for people, and the tables in README and docs."""
