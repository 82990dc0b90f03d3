"""Where cells and labels of the heat map go, and which classes it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.evaluation.confusion import MAX_CLASSES, lay_out

NAMES = ("ant", "bee", "cat")
COUNTS = np.array([[3, 1, 0], [0, 0, 2], [0, 0, 4]])


def test_every_pair_that_occurs_is_a_cell_in_its_place():
    found = lay_out(COUNTS, NAMES, 2)
    places = {((c.y - found.margin) // found.cell, (c.x - found.margin) // found.cell): c for c in found.cells}
    assert {place: cell.count for place, cell in places.items()} == {(0, 0): 3, (0, 1): 1, (1, 2): 2, (2, 2): 4}
    assert [places[k].share for k in ((0, 0), (0, 1), (1, 2))] == [0.75, 0.25, 1.0]
    assert [places[k].right for k in ((0, 0), (0, 1), (1, 2), (2, 2))] == [True, False, False, True]
    assert places[0, 1].title == "ant: 1 of 4 photos predicted as bee (25%)"
    assert places[2, 2].title == "cat: 4 of 4 photos right (100%)"
    assert all((c.x - found.margin) % found.cell == 0 == (c.y - found.margin) % found.cell for c in found.cells)
    assert found.size > found.margin + 3 * found.cell


def test_labels_stand_at_the_middle_of_their_rows_and_say_what_is_unseen():
    found = lay_out(COUNTS, NAMES, 2)
    assert [label.unseen for label in found.labels] == [False, False, True]
    assert [label.title for label in found.labels] == ["ant (seen)", "bee (seen)", "cat (unseen)"]
    assert [label.middle for label in found.labels] == [found.margin + (k + 0.5) * found.cell for k in range(3)]
    assert found.border == found.margin + 2 * found.cell


@pytest.mark.parametrize("seen", [0, 3])
def test_one_kind_of_classes_has_no_border(seen):
    assert lay_out(COUNTS, NAMES, seen).border is None


def test_long_names_are_cut_and_wide_letters_get_room():
    found = lay_out(np.eye(2, dtype=int), ("x" * 80, "y"), 2)
    assert len(found.labels[0].text) == 26
    assert found.labels[0].title.startswith("x" * 80)
    narrow, wide = (lay_out(np.eye(1, dtype=int), (name,), 1).margin for name in ("abcd", "長頸鹿鹿"))
    assert wide > narrow


def test_seventy_classes_are_readable_and_fit_a_laptop():
    found = lay_out(np.eye(70, dtype=int), [f"class {k}" for k in range(70)], 53)
    assert found.size < 1000
    assert found.font > 9
    assert found.hidden == 0


def test_of_many_classes_those_with_the_most_mistakes_are_shown_in_order():
    classes = MAX_CLASSES + 30
    confusion = 5 * np.eye(classes, dtype=int)
    confusion[140, 2] = confusion[7, 145] = 3
    found = lay_out(confusion, [f"c{k}" for k in range(classes)], 125)
    assert found.hidden == 30
    shown = [label.text for label in found.labels]
    assert len(shown) == MAX_CLASSES
    assert {"c2", "c7", "c140", "c145"} <= set(shown)
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    assert found.border == found.margin + sum(int(name[1:]) < 125 for name in shown) * found.cell
    assert "c7: 3 of 8 photos predicted as c145 (38%)" in {cell.title for cell in found.cells}
