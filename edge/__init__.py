"""What viewers touch: a coalescing HTTP cache in front of the origin, and the player page. Knows nothing of media."""
