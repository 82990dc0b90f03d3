"""Classes that join a run without training: shown by labeled images of its index, or merely named."""

from hybrid.run.classes.change import AddSummary, RemoveSummary, add_class, remove_class
from hybrid.run.classes.support import AddedClass, ClassesInfo, SupportClass, read_classes, support_classes

__all__ = [
    "AddSummary",
    "AddedClass",
    "ClassesInfo",
    "RemoveSummary",
    "SupportClass",
    "add_class",
    "read_classes",
    "remove_class",
    "support_classes",
]
