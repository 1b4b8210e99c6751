"""The cost of scoring captions, counted in work that does not depend on the machine."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """The work of forward passes; costs add up, from `Cost()`.

    Attributes:
        image_encodings: Images that a vision encoder read, as often as it read them.
        tokens: Tokens that a text model read: of text and of image placeholders, without padding.
        sentences: Sentences that were scored by it.
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
        """Return the JSON object of `metrics.json`."""
        return asdict(self)
