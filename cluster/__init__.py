"""What an operator applies to bring a cluster up, and `python -m cluster.check`, which says what is wrong with it."""
