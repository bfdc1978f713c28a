"""A page to look at: a trained network in the browser, served from this machine."""
