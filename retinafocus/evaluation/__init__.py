"""How good the found faces are. `average_precision` is the one scorer behind every number of quality here."""
