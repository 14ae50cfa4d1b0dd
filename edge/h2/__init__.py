"""HTTP/2 for viewers (RFC 9113): `frames`, `huffman`, `hpack` and `core` are pure; `connection` is the shell."""
