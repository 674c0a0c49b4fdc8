"""What a person asks before taking this: how fast, how large, and how it compares.

``python -m benchmarks <name>`` runs one of them and `make bench` all. What they found is in
``benchmarks/results/``, and docs/benchmarks.md shows it.
"""
