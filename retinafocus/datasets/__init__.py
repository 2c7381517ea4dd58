"""Photographs with labelled faces: one record type, one reader for each way such labels are stored."""
