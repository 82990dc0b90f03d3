"""Classes that join a run without training: shown by labeled images of its index, or merely named."""

from hybrid.run.classes.change import AddSummary, RemoveSummary, RunClasses, add_class, read_run_classes, remove_class
from hybrid.run.classes.entries import AddedClass, ClassesInfo, read_classes
from hybrid.run.classes.support import SupportClass

__all__ = [
    "AddSummary",
    "AddedClass",
    "ClassesInfo",
    "RemoveSummary",
    "RunClasses",
    "SupportClass",
    "add_class",
    "read_classes",
    "read_run_classes",
    "remove_class",
]
