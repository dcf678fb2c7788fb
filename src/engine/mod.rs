//! What is to be done: pure decisions over an observation and a given time.
