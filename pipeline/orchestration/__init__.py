"""Running the graph through DVC: many models side by side, many seeds, one display."""
