"""Draws the sample data set: a catalogue of invented products and the live clips that show them. `python -m sample -h`."""
