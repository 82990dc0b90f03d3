"""Two opinions, one probability: experts, calibration and the gate."""
