//! Whether this pod runs in a user namespace of its own. The last guard: an API server or a kubelet
//! that does not know `hostUsers` drops it without a word, and root in the builder would be root on
//! the node.

use std::{fs, path::Path};

use crate::{
    api::UserNamespace,
    builds::prepare::error::{PrepareError, PrepareReason},
};

/// Refuses when a namespace is required and this process runs in the host's.
pub(super) fn check(required: UserNamespace, uid_map: &Path) -> Result<(), PrepareError> {
    if required == UserNamespace::NotRequired {
        return Ok(());
    }
    let refuse = |problem: &str| {
        Err(PrepareError::new(
            PrepareReason::UserNamespaceUnavailable,
            format!(
                "{problem}, and the strategy requires a user namespace. Use nodes with user \
                 namespaces (Kubernetes 1.33 or newer with containerd 2 or CRI-O, Linux 6.3 or \
                 newer), or a strategy that needs none"
            ),
        ))
    };
    match fs::read_to_string(uid_map) {
        Ok(map) if own(&map) => Ok(()),
        Ok(_) => refuse("this node started the pod in the host's user namespace"),
        Err(error) => {
            refuse(&format!("whether the pod has a user namespace can't be read ({error})"))
        }
    }
}

/// Whether a `uid_map` gives root in here to somebody else out there.
fn own(map: &str) -> bool {
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
    fn the_hosts_namespace_is_told_from_the_pods_own() {
        for (map, is_own) in [
            ("         0          0 4294967295\n", false),
            ("0 131072 65536\n", true),
            ("0 131072 1000\n1000 200000 64536\n", true),
            ("0 0 65536\n", false),
            ("1000 131072 1\n", false),
            ("", false),
            ("what\n", false),
        ] {
            assert_eq!(own(map), is_own, "{map:?}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_refused_where_it_matters() {
        let nowhere = Path::new("/nonexistent/uid_map");
        assert_eq!(check(UserNamespace::NotRequired, nowhere), Ok(()));
        let refusal = check(UserNamespace::Required, nowhere).expect_err("unknown");
        assert_eq!(refusal.reason, PrepareReason::UserNamespaceUnavailable);
    }
}
