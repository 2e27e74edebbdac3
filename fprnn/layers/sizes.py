"""One complaint for all layers about a size that is none."""


def check_sizes(**sizes: int | None) -> None:
    """Refuses sizes below 1, by name; None stands for a default and passes.

    Args:
        sizes: options of a layer.

    Raises:
        ValueError: if one is below 1; the message names it.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: {size} is too small; use 1 or more.")
