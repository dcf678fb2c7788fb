//! Dockerfiles, and what builders print; see [`crate::fuzz`].

use std::{collections::BTreeMap, str};

use crate::{
    builds::{
        dockerfile::{BuildOptions, Dockerfile, NamedImage, undeclared_args, verify_edges},
        outcome::message::{Keep, sanitize},
    },
    registry::Platform,
};

/// Upper bound on what a message quotes of a builder, in bytes, with the mark that it was cut.
const MAX_QUOTE: usize = 1024 + 8;

/// A Dockerfile, and after a zero byte the triggers of each of its parents.
pub fn dockerfile(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (text, triggers) = text.split_once('\0').unwrap_or((text, ""));
    let triggers: Vec<String> = triggers.lines().map(str::to_owned).collect();
    let Some(platform) = Platform::from_user("linux/amd64") else { return };
    let args = BTreeMap::from([("BASE".to_owned(), "registry.example.com/base:1".to_owned())]);
    let options = BuildOptions { args: &args, platform: &platform, target: None };
    let Ok(dockerfile) = Dockerfile::parse(text, &options) else { return };
    _ = undeclared_args(&dockerfile, args.keys());
    let triggers_of = |_: &NamedImage| triggers.as_slice();
    let needed = dockerfile.needed_images(&triggers_of);
    // Nothing is declared, so that every image that the build pulls has to be refused.
    if let Ok(Some(needed)) = needed
        && verify_edges(&dockerfile, &[], Some(&[])).is_ok()
    {
        let own = dockerfile.needed_images(&|_| &[]).ok().flatten().unwrap_or_default();
        assert!(own.is_empty(), "undeclared images pass: {needed:?}");
    }
}

/// What a builder prints before it ends.
pub fn builder_output(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for keep in [Keep::Start, Keep::End] {
        let shown = sanitize(&text, keep);
        assert!(shown.len() <= MAX_QUOTE, "{} bytes are shown", shown.len());
        let acts = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(acts), "{shown:?} acts on a terminal");
    }
}
