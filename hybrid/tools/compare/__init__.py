"""Several recipes, trained and tested on the same photos, in one table."""
