"""`orchestrate describe`: a model taken apart, in numbers and as a drawing."""
