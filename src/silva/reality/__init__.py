"""This machine: what it measures, and what the model of it makes of that."""
