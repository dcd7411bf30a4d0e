"""Contrast, and texts that can be read."""

import pytest

from analysis.charts.theme import COLOURS, EARLY_TO_LATE, TEXT, theme

WHITE, DARK = "#ffffff", "#222222"  # of Quarto's themes


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", COLOURS + EARLY_TO_LATE)
def test_marks_stand_out_in_both_themes(colour):
    assert min(contrast(colour, WHITE), contrast(colour, DARK)) >= 3


def test_texts_stand_out_on_paper_and_have_a_readable_size():
    config = theme()["config"]
    assert contrast(TEXT, WHITE) >= 4.5
    sizes = [
        size
        for part in config.values()
        if isinstance(part, dict)
        for name, size in part.items()
        if name.lower().endswith("fontsize")
    ]
    assert len(sizes) == 6 and min(sizes) >= 12
