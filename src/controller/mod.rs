//! The reconcilers: observe, decide, apply, status.
