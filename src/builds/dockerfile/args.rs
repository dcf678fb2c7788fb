//! The build arguments that a Dockerfile does not have to declare, and those that it should.

use std::collections::BTreeMap;

use crate::{
    builds::dockerfile::{BuildOptions, Dockerfile},
    registry::Platform,
};

/// The prefix of the arguments with which `BuildKit` itself is configured.
const OF_BUILDKIT: &str = "BUILDKIT_";
/// The other arguments that a Dockerfile does not declare: those of the proxy, in any case, and the
/// date of the image.
const PREDEFINED: [&str; 6] =
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "source_date_epoch"];
/// The name of the stage that is built, if neither `target` nor the Dockerfile has a name for it.
const UNNAMED_STAGE: &str = "default";

/// Returns the arguments that `BuildKit` sets before the first line, each with its value. A build
/// argument overrides it, even if no `ARG` declares it.
///
/// A build runs on a node of its platform, so that target and builder have the same. `last_stage`
/// is the name of the last stage.
pub(super) fn platform_args(
    options: &BuildOptions<'_>,
    last_stage: Option<&str>,
) -> BTreeMap<String, String> {
    let stage = options.target.or(last_stage).filter(|name| !name.is_empty());
    let mut args =
        BTreeMap::from([("TARGETSTAGE".to_owned(), stage.unwrap_or(UNNAMED_STAGE).to_owned())]);
    for (side, platform) in [("TARGET", options.platform), ("BUILD", &of_builder(options.platform))]
    {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            // Set, but empty on Linux.
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ] {
            args.insert(format!("{side}{name}"), value);
        }
    }
    for (name, value) in &mut args {
        if let Some(given) = options.args.get(name) {
            value.clone_from(given);
        }
    }
    args
}

/// Returns the platform of a builder on a node of this platform. `BuildKit` knows no variant of an
/// amd64 node.
fn of_builder(platform: &Platform) -> Platform {
    let variant = platform.variant.clone().filter(|_| platform.architecture != "amd64");
    Platform { variant, ..platform.clone() }
}

/// Returns the build arguments that no `ARG` of a Dockerfile declares. The build ignores them, so
/// that each is probably misspelt.
#[must_use]
pub fn undeclared_args<'a>(
    dockerfile: &Dockerfile,
    args: impl IntoIterator<Item = &'a String>,
) -> Vec<&'a str> {
    let is_known = |name: &str| {
        let lower = name.to_ascii_lowercase();
        dockerfile.args.contains(name)
            || name.starts_with(OF_BUILDKIT)
            || PREDEFINED.contains(&lower.as_str())
            || is_platform_arg(name)
    };
    args.into_iter().map(String::as_str).filter(|name| !is_known(name)).collect()
}

fn is_platform_arg(name: &str) -> bool {
    let side = name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD"));
    name == "TARGETSTAGE"
        || side
            .is_some_and(|rest| ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"].contains(&rest))
}
