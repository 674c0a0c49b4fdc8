"""Train, sample and compare families of image generators, reproducibly."""
