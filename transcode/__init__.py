"""One decode, many renditions: ladder, plan, cuts, the worker process and the pool that watches over workers."""
