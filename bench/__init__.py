"""Measurements of Ramet: ``make bench``.  Figures, never assertions."""
