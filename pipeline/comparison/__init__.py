"""All models side by side: one row each, what ranks them, what is a tie, what to take."""
