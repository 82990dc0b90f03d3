"""Several recipes, trained and tested on the same images, in one table."""
