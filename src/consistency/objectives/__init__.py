"""What is learned? Flows, targets, distances, weights, and the objectives they make up."""
