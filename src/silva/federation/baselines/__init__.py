"""Methods to compare with, one small file each."""

from silva.federation.baselines.controls import local_work, measure_controls

__all__ = ["local_work", "measure_controls"]
