from __future__ import annotations

import errno
import os

import pytest

from hybrid import errors
from hybrid.errors import (
    DataError,
    FileError,
    HybridError,
    MissingExtraError,
    UnreadableImageError,
    file_error,
    listing,
    named_file_errors,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
]


def test_a_message_says_what_expected_got_and_fix_on_lines_of_their_own():
    error = HybridError("it broke", expected="a cat", got="a dog", fix="adopt a cat")
    assert str(error) == "it broke\n  expected: a cat\n  got:      a dog\n  fix:      adopt a cat"
    assert (error.what, error.expected, error.got, error.fix) == ("it broke", "a cat", "a dog", "adopt a cat")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "it broke"),
        ({"got": "x"}, "it broke\n  got:      x"),
        ({"expected": "", "fix": "y"}, "it broke\n  expected: \n  fix:      y"),
    ],
)
def test_parts_that_are_not_given_leave_no_line(parts, text):
    assert str(HybridError("it broke", **parts)) == text


def test_one_tree_catches_every_error_and_each_one_is_documented():
    assert len(KINDS) >= 11
    assert all(issubclass(kind, HybridError) and kind.__doc__ for kind in KINDS)
    assert issubclass(UnreadableImageError, errors.DataError)


def test_a_missing_extra_names_feature_package_and_command():
    error = MissingExtraError("reading Parquet", "pyarrow", "parquet")
    assert error.what == "reading Parquet needs the package pyarrow, which is not installed"
    assert error.fix == "pip install 'hybrid-classifier[parquet]'"


@pytest.mark.parametrize(
    ("count", "limit", "text"),
    [
        (0, 2, ""),
        (2, 2, "n0, n1"),
        (3, 2, "n0, n1 and 1 more"),
        (12, 10, "n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 2 more"),
    ],
)
def test_listing_shows_the_first_names_and_counts_the_rest(count, limit, text):
    assert listing([f"n{number}" for number in range(count)], limit) == text


def test_what_the_system_says_becomes_a_named_error_with_a_fix(tmp_path):
    for number, cause, fix in (
        (errno.EROFS, "read-only", "another place"),
        (errno.EACCES, "no permission", "owner"),
        (errno.ENOSPC, "disk is full", "free some space"),
        (errno.ENOTBLK, os.strerror(errno.ENOTBLK), "check the path"),
    ):
        error = file_error(OSError(number, os.strerror(number), "/a/b"), "cannot write the report")
        assert error.what == "cannot write the report"
        assert error.got.startswith("/a/b: ")
        assert cause in error.got
        assert fix in error.fix
        assert error.got.count(os.strerror(number)) == 1
    with pytest.raises(FileError, match="cannot read it") as caught, named_file_errors("cannot read it"):
        (tmp_path / "none").read_text()
    assert str(tmp_path / "none") in caught.value.got
    for other in (DataError("no"), ValueError("no")):
        with pytest.raises(type(other)) as caught, named_file_errors("cannot write"):
            raise other
        assert caught.value is other
