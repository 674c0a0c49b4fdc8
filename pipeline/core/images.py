"""What the images of a data set look like; known without any library."""

from dataclasses import dataclass

PICTURED_CLASSES = 100
"""Of more classes than this, pictures show the first."""


@dataclass(frozen=True)
class ImageSpec:
    """What the images of a data set look like."""

    channels: int
    height: int
    width: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)

    @property
    def dimensions(self) -> int:
        """Number of values in an image, the D of bits/dim = nats / (D ln 2)."""
        return self.channels * self.height * self.width
