"""Models, training, ranking, calibration, replay: everything that needs no broker and no store."""
