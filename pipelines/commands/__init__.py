"""One module for each verb: its options, and the call of its job. Jobs are imported when they run."""
