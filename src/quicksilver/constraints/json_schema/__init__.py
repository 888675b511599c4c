"""JSON Schema as a set of texts: schemas to formulas, formulas to expressions."""
