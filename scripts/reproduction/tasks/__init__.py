"""Tasks: problems, and how their answers are graded."""
