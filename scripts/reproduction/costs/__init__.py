"""What work costs: before it is submitted, and as it was recorded."""
