"""Numbers that texts are ranked by: each measure is a function texts -> columns of float64, one number a text."""
