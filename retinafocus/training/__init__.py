"""From labelled photos to weights: augmented crops, targets, losses and the training loop. Needs no cluster."""
