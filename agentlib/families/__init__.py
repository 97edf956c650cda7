"""How the runs of each kind of learner are put together, once for all learners of that kind."""
