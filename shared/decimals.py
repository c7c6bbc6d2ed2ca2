"""Figures as text, for tables that a person reads."""


def three_decimals(figure: float | None) -> str:
    """The figure with three decimals; '-' for None, where there is none."""
    return "-" if figure is None else f"{figure:.3f}"
