//! The credentials of a build, merged into the one `config.json` that builders read.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
};

use super::{
    Places, disk,
    refusal::{Reason, Refusal},
    specification::Specification,
};

/// The most bytes of a Secret; the API server allows 1 MiB.
const MAX_SECRET: u64 = 1 << 20;

/// Merges the mounted Secrets and writes the file, for its owner's eyes only.
pub(super) fn write(specification: &Specification, places: &Places) -> Result<(), Refusal> {
    let mut auths: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for (index, name) in specification.credentials.iter().enumerate() {
        let wrong = |problem: &str| {
            Refusal::new(Reason::InvalidSecret, format!("Secret `{name}`, of `credentials`, {problem}"))
        };
        let path = places.credentials.join(index.to_string()).join("config.json");
        let mut bytes = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_SECRET).read_to_end(&mut bytes))
            .map_err(|_| wrong("is gone, or has no key `.dockerconfigjson`"))?;
        let config: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| wrong("is not JSON"))?;
        for (host, auth) in config.get("auths").and_then(serde_json::Value::as_object).into_iter().flatten() {
            auths.entry(host.clone()).or_insert_with(|| auth.clone());
        }
    }
    let path = places.docker_config.join("config.json");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(serde_json::json!({ "auths": auths }).to_string().as_bytes()))
        .map_err(|error| disk(&path, &error))
}
