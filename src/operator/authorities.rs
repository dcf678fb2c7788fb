//! The private certificate authorities of the controller: read at start, and watched, because they
//! are renewed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tracing::warn;

use crate::registry::{CaBundle, CaBundleError};

/// How often the file is read again. The kubelet updates a mounted file within about a minute.
const READ_INTERVAL: Duration = Duration::from_mins(1);

/// Reads the private certificate authorities. There are none without a path.
pub(super) fn read(path: Option<&Path>) -> anyhow::Result<CaBundle> {
    let Some(path) = path else { return Ok(CaBundle::default()) };
    CaBundle::read(path).with_context(|| format!("CA_BUNDLE, {}", path.display()))
}

/// Writes the authorities of the system and the private ones into one file for the child processes
/// that query Git servers, whose TLS library trusts one file only.
pub(super) fn write_trust_file(bundle: &CaBundle) -> anyhow::Result<Option<PathBuf>> {
    if bundle.is_empty() {
        return Ok(None);
    }
    let path = std::env::temp_dir().join("groundswell-ca-certificates.crt");
    bundle
        .write_with_system(Path::new("/"), &path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(Some(path))
}

/// Waits until the file contains other authorities than at first. A file that cannot be used
/// changes nothing: the controller goes on with those that it has.
pub(super) async fn changed(path: Option<PathBuf>) {
    let Some(path) = path else { return std::future::pending().await };
    changed_of(&path, || CaBundle::read(&path)).await;
}

async fn changed_of(path: &Path, read: impl Fn() -> Result<CaBundle, CaBundleError>) {
    let Ok(first) = read() else { return std::future::pending().await };
    let mut is_usable = true;
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        match read() {
            Ok(now) if now != first => return,
            Ok(_) => is_usable = true,
            Err(error) => {
                if is_usable {
                    warn!(%error, path = %path.display(), "the changed certificate authorities \
                        cannot be used; those from the start stay in use");
                }
                is_usable = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::FutureExt as _;

    use super::*;

    fn bundle(body: &str) -> CaBundle {
        let text = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        CaBundle::parse(&text).expect("a bundle")
    }

    #[tokio::test(start_paused = true)]
    async fn renewed_authorities_are_noticed_and_unusable_ones_are_not() {
        let reads = Arc::new(AtomicUsize::new(0));
        let read = Arc::clone(&reads);
        let waiting = tokio::spawn(async move {
            changed_of(Path::new("ca.crt"), || match read.fetch_add(1, Ordering::SeqCst) {
                0 | 1 | 4 => Ok(bundle("AAAA")),
                2 | 3 => Err(CaBundleError::Empty),
                _ => Ok(bundle("BBBB")),
            })
            .await;
        });
        waiting.await.expect("it notices");
        assert_eq!(reads.load(Ordering::SeqCst), 6);
        assert!(changed(None).now_or_never().is_none());
        let missing = PathBuf::from("/nonexistent/ca.crt");
        assert!(changed(Some(missing)).now_or_never().is_none(), "the start fails, and says why");
    }
}
