"""A picture file, in and out: finding, opening, color, tiff, archives, writing."""


class PhotoError(ValueError):
    """A picture that is skipped; the text is the reason that skipped.csv gives."""
