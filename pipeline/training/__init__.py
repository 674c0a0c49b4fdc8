"""The one training loop, what it logs, and how it goes on after an interruption."""
