//! The keys by which the poller is asked for tags. Parsing a reference costs more than everything
//! else that a quiet reconcile does for an image, so keys are reused by the next reconcile.
//! No client is needed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    registry::{Client, Keychain},
    upstream::{ImageKey, TagNeeds},
};

/// The keys that the last two reconciles of a family have used.
#[derive(Default)]
pub struct ImageKeys {
    /// The credentials that the keys are valid for.
    keychain: Option<Arc<Keychain>>,
    /// The number of the current reconcile.
    reconcile: u64,
    /// By reference and needs.
    known: HashMap<(String, TagNeeds), CachedKey>,
}

/// A key, and when it was last used.
struct CachedKey {
    key: ImageKey,
    /// The number of the reconcile.
    last_used: u64,
}

impl ImageKeys {
    /// Begins a reconcile with these credentials. Drops the keys that the last reconcile did not
    /// use.
    pub fn begin_reconcile(&mut self, keychain: &Arc<Keychain>) {
        if self.keychain.as_ref().is_some_and(|known| Arc::ptr_eq(known, keychain)) {
            let last = self.reconcile;
            self.known.retain(|_, cached| cached.last_used == last);
        } else {
            self.known.clear();
            self.keychain = Some(Arc::clone(keychain));
        }
        self.reconcile += 1;
    }

    /// Returns the key of a reference, `host/repository:tag`, of which this is needed.
    pub fn key(
        &mut self,
        client: &Client,
        reference: String,
        needs: &TagNeeds,
        keychain: &Arc<Keychain>,
    ) -> ImageKey {
        let last_used = self.reconcile;
        let cached = self.known.entry((reference, needs.clone())).or_insert_with_key(
            |(reference, needs)| CachedKey {
                key: ImageKey::new(client, reference, needs, keychain),
                last_used,
            },
        );
        cached.last_used = last_used;
        cached.key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Config;

    #[test]
    fn keys_are_kept_for_the_same_credentials_and_two_reconciles() {
        let client = Client::new(Config::default()).expect("a client");
        let needs = TagNeeds::Images { required: vec!["linux/amd64".into()] };
        let mut keys = ImageKeys::default();
        for round in 0..3 {
            let keychain = Arc::new(Keychain::default());
            for reconcile in 0..3 {
                keys.begin_reconcile(&keychain);
                let reference = format!("registry.example.com/python:{round}.{reconcile}");
                let expected = ImageKey::new(&client, &reference, &needs, &keychain);
                assert_eq!(keys.key(&client, reference, &needs, &keychain), expected);
                let always = keys.key(
                    &client,
                    "registry.example.com/python:latest".into(),
                    &TagNeeds::default(),
                    &keychain,
                );
                assert_ne!(always, expected);
                assert_eq!(keys.known.len(), if reconcile == 0 { 2 } else { 3 });
            }
        }
    }
}
