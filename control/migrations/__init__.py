"""Schema migrations (Alembic), shipped with the package and run at every start."""

HEAD = "0001"
"""The newest revision: lets a start see without Alembic that there is nothing to do. A test keeps it true."""
