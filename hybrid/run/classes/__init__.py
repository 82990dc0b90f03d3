"""Classes that join a run without training: shown by labeled images of its index, or merely named."""

from hybrid.run.classes.change import AddSummary, RemoveSummary, add_class, remove_class
from hybrid.run.classes.support import AddedClass, ClassesInfo, ShownClass, read_classes, shown_classes

__all__ = [
    "AddSummary",
    "AddedClass",
    "ClassesInfo",
    "RemoveSummary",
    "ShownClass",
    "add_class",
    "read_classes",
    "remove_class",
    "shown_classes",
]
