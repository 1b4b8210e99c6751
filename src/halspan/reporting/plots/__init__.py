"""Plots of a report, drawn with matplotlib into SVG that follows the page's colors."""
