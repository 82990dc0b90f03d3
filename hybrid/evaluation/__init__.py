"""How good an answer is: pure metrics over arrays, and their table for the terminal."""
