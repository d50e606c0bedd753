"""Methods to compare with, one small file each."""

from silva.federation.baselines.controls import measure_controls

__all__ = ["measure_controls"]
