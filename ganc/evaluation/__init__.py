"""Metrics: a model alone, against its teacher, against real images.

``evaluate.evaluate`` is the one entry; ``metrics.METRICS`` the table; every file beside them one
kind of metric (``task.Measurement`` says what a metric is).
"""
