"""Operators with a compiled fast path (`native`) and a plain twin (`reference`)."""

from silva.kernels.native import Backend, native_loaded, projector_overlap

__all__ = ["Backend", "native_loaded", "projector_overlap"]
