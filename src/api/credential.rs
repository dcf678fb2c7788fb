//! The registry credentials of a family, and what each may be used for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Secret with registry credentials, and what it is used for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredential {
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// What the Secret is used for. `Pull`: to read upstreams, parents and the family's own images.
    /// `Push`: to push builds and to move tags. A check in another image gets only Secrets that are
    /// used to pull and not to push. Defaults to both.
    #[serde(rename = "use", default = "every_use")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub uses: Vec<CredentialUse>,
}

/// What a registry credential is used for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialUse {
    /// To read images.
    Pull,
    /// To push images and to move tags.
    Push,
}

impl RegistryCredential {
    /// Returns a Secret that is used to pull and to push.
    #[must_use]
    pub fn unrestricted(name: &str) -> Self {
        Self { name: name.into(), uses: every_use() }
    }

    /// Returns whether the Secret is used for this.
    #[must_use]
    pub fn is_for(&self, wanted: CredentialUse) -> bool {
        self.uses.contains(&wanted)
    }

    /// Returns whether the Secret may be given to code that must not push.
    #[must_use]
    pub fn is_pull_only(&self) -> bool {
        self.is_for(CredentialUse::Pull) && !self.is_for(CredentialUse::Push)
    }
}

fn every_use() -> Vec<CredentialUse> {
    vec![CredentialUse::Pull, CredentialUse::Push]
}
