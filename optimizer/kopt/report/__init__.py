"""How a run is shown. Reads records and journals; never imports torch or triton, and matplotlib only to draw."""
