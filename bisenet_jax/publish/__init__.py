"""From finished runs to a shipped network: weights, register, card, curves, log, results."""
