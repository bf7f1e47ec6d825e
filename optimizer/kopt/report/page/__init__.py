"""The page of a run: what is shown is computed here, how it looks is in templates/."""
