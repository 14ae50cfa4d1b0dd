"""Composition: settings, command line, streams and keys, the node that joins the other packages, API and metrics."""
