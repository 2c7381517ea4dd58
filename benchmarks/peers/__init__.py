"""Other face detectors beside ours, on the same photos, with the same scorer.

Each has its own virtual environment, because their pins fight each other and ours, and runs in a process of its own
that is spoken to in lines of JSON. Read on in `catalogue` (who they are), `conversation` (how they are spoken to),
`environments`, `answers` (what is kept) and `report` (what is made of it).
"""
