"""From packets of every rendition to CMAF parts, segments and playlists, and the origin that serves them."""
