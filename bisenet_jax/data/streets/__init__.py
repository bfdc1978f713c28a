"""How a synthetic street is drawn: planned, painted back to front, and photographed."""
