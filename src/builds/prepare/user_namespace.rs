//! Verifies that this pod runs in a user namespace of its own. This is the last guard: an API
//! server or a kubelet that does not know `hostUsers` drops the field silently, and root in the
//! builder would be root on the node.

use std::{fs, path::Path};

use crate::{
    api::UserNamespace,
    builds::prepare::error::{PrepareError, PrepareReason},
};

/// Returns an error if a user namespace is required and this process runs in the host's.
pub(super) fn verify(required: UserNamespace, uid_map: &Path) -> Result<(), PrepareError> {
    if required == UserNamespace::NotRequired {
        return Ok(());
    }
    let unavailable = |problem: &str| {
        Err(PrepareError::new(
            PrepareReason::UserNamespaceUnavailable,
            format!(
                "{problem}, but the strategy requires a user namespace. Use nodes with user \
                 namespaces (Kubernetes 1.33 or newer with containerd 2 or CRI-O, Linux 6.3 or \
                 newer), or a strategy that does not need one"
            ),
        ))
    };
    match fs::read_to_string(uid_map) {
        Ok(map) if is_own_namespace(&map) => Ok(()),
        Ok(_) => unavailable("the node started the pod in the host's user namespace"),
        Err(error) => {
            unavailable(&format!("cannot read whether the pod has a user namespace ({error})"))
        }
    }
}

/// Whether a `uid_map` maps root of this namespace to another user of the host.
fn is_own_namespace(map: &str) -> bool {
    let rows = map
        .lines()
        .map(|line| line.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>());
    let mut root = None;
    for row in rows {
        match row.as_deref() {
            Ok([0, outside, _]) => root = Some(*outside),
            Ok([_, _, _]) => {}
            _ => return false,
        }
    }
    root.is_some_and(|outside| outside != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_namespace_differs_from_the_pods_own() {
        for (map, is_own) in [
            ("         0          0 4294967295\n", false),
            ("0 131072 65536\n", true),
            ("0 131072 1000\n1000 200000 64536\n", true),
            ("0 0 65536\n", false),
            ("1000 131072 1\n", false),
            ("", false),
            ("what\n", false),
        ] {
            assert_eq!(is_own_namespace(map), is_own, "{map:?}");
        }
    }

    #[test]
    fn an_unreadable_map_is_an_error_only_if_a_namespace_is_required() {
        let nowhere = Path::new("/nonexistent/uid_map");
        assert_eq!(verify(UserNamespace::NotRequired, nowhere), Ok(()));
        let error = verify(UserNamespace::Required, nowhere).expect_err("unknown");
        assert_eq!(error.reason, PrepareReason::UserNamespaceUnavailable);
    }
}
