"""Searches for hyper-parameters; they use `pipelines` and the library, and neither knows of them."""
