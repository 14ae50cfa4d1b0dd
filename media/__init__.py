"""What flows through Headrace: tracks, packets, cuts, clocks and errors. Pure; imports nothing of ours."""
