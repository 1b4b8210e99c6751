"""What it costs to score captions, in work that does not depend on the machine."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """The work of forward passes; costs add up, from `Cost()`.

    Attributes:
        image_encodings: images that a vision encoder read, as often as it read them.
        tokens: tokens that a text model read: of text and of image placeholders, without padding.
        sentences: sentences that were scored by it.
    """

    image_encodings: int = 0
    tokens: int = 0
    sentences: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.image_encodings + other.image_encodings,
            self.tokens + other.tokens,
            self.sentences + other.sentences,
        )

    def to_record(self) -> dict[str, int]:
        """Give the JSON object of `metrics.json`."""
        return asdict(self)
