"""The hallucination types of AlignBench (arXiv 2511.20515), in one place."""

HALLUCINATION_TYPES: tuple[str, ...] = (
    "Attribute",  # a wrong property of a thing that is there: color, size, material, ...
    "Object",  # a thing mistaken for another one
    "Illusion",  # something that is not in the image at all
    "Direction",  # where a thing faces, looks or points
    "Location",  # where a thing is
    "Number",  # how many there are
    "Relation",  # how things relate to each other
    "Text",  # words written in the image
    "Other",
)
