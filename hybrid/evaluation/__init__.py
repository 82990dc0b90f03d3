"""How good an answer is: pure metrics over arrays, and what people read of them.

Read `evaluate` first: it runs a classifier over labeled images and gives the `Evaluation` of `results`. The metrics
are in `metrics`, `calibration`, `confusion` and `hierarchy`; `report` and `html_report` show them.
"""
