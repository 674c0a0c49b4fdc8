"""Images from trained models, one seed each, and the pictures that people look at."""
