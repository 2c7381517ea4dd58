"""The focus cascade's own arithmetic: from a focus map to chips, and from what all looks found to one answer."""
