"""How candidates may be re-ranked."""

MODES = ("exact", "fast")  # all at full depth, or as a cascade
