"""What the benchmarks share: arguments, data, the product's fit on vectors, tables, figures, JSON, the machine."""
