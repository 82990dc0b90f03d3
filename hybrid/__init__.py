"""Classify photos into trained classes and into classes that are only named, in one calibrated answer."""

__version__ = "0.1.0"
