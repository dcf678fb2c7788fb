//! Version and commit of this binary, fixed at compile time.

use std::sync::LazyLock;

/// Version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Git commit that the binary was built from, or `unknown` if the build did not set
/// `GROUNDSWELL_COMMIT`.
pub const COMMIT: &str = match option_env!("GROUNDSWELL_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// Version and commit as `--version` prints them.
pub static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{VERSION} (commit {COMMIT})"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_version_has_version_and_commit() {
        assert!(LONG_VERSION.starts_with(VERSION), "{}", *LONG_VERSION);
        assert!(LONG_VERSION.contains(COMMIT) && !COMMIT.is_empty(), "{}", *LONG_VERSION);
    }
}
