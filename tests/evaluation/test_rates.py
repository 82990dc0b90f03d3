"""Promises of rejection and prediction sets, by hand."""

from __future__ import annotations

import numpy as np

from hybrid.evaluation.results import describe, report_rejection, report_sets

TARGET = np.array([0, 1, 2, 2])


def test_sets_by_hand():
    sets = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    report = report_sets(sets, TARGET, seen=2, asked=0.9)
    assert (report.asked, report.seen, report.unseen, report.mean_size) == (0.9, 0.5, 1.0, 2.0)
    assert "cover 50.0% of these and 100.0% of unseen" in describe(report)


def test_rejection_by_hand():
    report = report_rejection(np.array([0.9, 0.5, 0.4, 0.1]), TARGET, 2, np.array([0.6, 0.2, 0.1, 0.0]), 0.5)
    assert (report.seen, report.unseen, report.foreign, report.foreign_photos) == (1.0, 0.0, 0.25, 4)
    assert "25.0% of the 4 photos of other classes" in describe(report)


def test_a_group_without_images_has_no_share():
    sets = report_sets(np.ones((2, 2), dtype=bool), np.array([0, 1]), seen=2, asked=0.5)
    rejection = report_rejection(np.ones(2), np.array([0, 1]), 2, np.empty(0), 0.5)
    assert sets.unseen is None
    assert (rejection.unseen, rejection.foreign) == (None, None)
    assert "no photos" in describe(sets)
    assert "no photos of the 0 photos" in describe(rejection)
