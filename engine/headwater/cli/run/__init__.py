"""`headwater run`: a worker, or several under a supervisor."""
