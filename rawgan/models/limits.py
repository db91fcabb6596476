"""Limits of the image sizes and widths of networks."""

from rawgan.errors import UserError


def quarter(size: int, largest: int | None = None) -> int:
    """Return size / 4, for generators that double an image twice.

    Raises UserError unless size is a positive multiple of 4, at most `largest`.
    """
    if size < 4 or size % 4 or (largest and size > largest):
        limit = f", at most {largest}" if largest else ""
        raise UserError(
            f"this generator doubles an image twice: its size must be a multiple of 4{limit}, "
            f"not {size}"
        )
    return size // 4


def at_least(width: int, smallest: int) -> None:
    """Raise UserError for a width at which a layer would have no channels."""
    if width < smallest:
        raise UserError(f"these networks need a width of at least {smallest}, not {width}")
