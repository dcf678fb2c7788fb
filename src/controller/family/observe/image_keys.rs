//! The keys by which registries are asked where tags stand. To read a reference costs more than the
//! rest of what a quiet pass does for an image, so that keys are kept from one pass to the next.

use std::{collections::HashMap, sync::Arc};

use crate::{
    registry::{Client, Keychain},
    upstream::ImageKey,
};

/// The keys that the last two passes over a family have used.
#[derive(Default)]
pub struct ImageKeys {
    /// The credentials that the keys are made for.
    keychain: Option<Arc<Keychain>>,
    /// Counts passes.
    pass: u64,
    /// By reference and platforms; each with the last pass that used it.
    known: HashMap<(String, Vec<String>), (ImageKey, u64)>,
}

impl ImageKeys {
    /// A pass with these credentials begins. Keys that the last one did not use are dropped.
    pub fn begin(&mut self, keychain: &Arc<Keychain>) {
        if self.keychain.as_ref().is_some_and(|known| Arc::ptr_eq(known, keychain)) {
            let last = self.pass;
            self.known.retain(|_, (_, used)| *used == last);
        } else {
            self.known.clear();
            self.keychain = Some(Arc::clone(keychain));
        }
        self.pass += 1;
    }

    /// The key of a reference, `host/repository:tag`, of which these platforms must be there.
    pub fn key(
        &mut self,
        client: &Client,
        reference: String,
        platforms: &[String],
        keychain: &Arc<Keychain>,
    ) -> ImageKey {
        let pass = self.pass;
        let (key, used) = self.known.entry((reference, platforms.to_vec())).or_insert_with_key(
            |(reference, platforms)| (ImageKey::new(client, reference, platforms, keychain), pass),
        );
        *used = pass;
        key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Config;

    #[test]
    fn keys_are_those_of_the_credentials_and_of_the_last_two_passes() {
        let client = Client::new(Config::default()).expect("a client");
        let mut keys = ImageKeys::default();
        for round in 0..3 {
            let keychain = Arc::new(Keychain::default());
            for pass in 0..3 {
                keys.begin(&keychain);
                let reference = format!("registry.example.com/python:{round}.{pass}");
                let expected =
                    ImageKey::new(&client, &reference, &["linux/amd64".into()], &keychain);
                assert_eq!(
                    keys.key(&client, reference, &["linux/amd64".into()], &keychain),
                    expected
                );
                let always =
                    keys.key(&client, "registry.example.com/python:latest".into(), &[], &keychain);
                assert_ne!(always, expected);
                assert_eq!(keys.known.len(), if pass == 0 { 2 } else { 3 });
            }
        }
    }
}
