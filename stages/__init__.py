"""The pipeline's stages: one thin script each, run as ``python -m stages.<name>``."""

from pipeline.core import startup as startup  # first of all: it looks at the code before it is read
