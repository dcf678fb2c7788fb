//! The graph of a family: build, check, levels, descendants, critical path. Pure.
