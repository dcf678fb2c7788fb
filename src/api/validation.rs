//! Checks that need more than one field and no cluster. Runs the same in the controller and offline.
