"""Did a change make it worse? New metrics against a committed baseline."""
