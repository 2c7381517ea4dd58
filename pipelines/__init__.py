"""Jobs over photo archives: they only wire what `retinafocus` knows."""
