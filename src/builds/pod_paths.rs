//! The paths in a build's pod. The controller and `prepare` share them.

/// The folder that `prepare` and the builder share.
pub const WORKSPACE: &str = "/workspace";
/// The build context, inside of [`WORKSPACE`].
pub const CONTEXT: &str = "/workspace/context";
/// The private certificate authorities of the operator's configuration, if there are any.
pub const CA_FILE: &str = "/workspace/ca.crt";
/// The certificates of the system and those of [`CA_FILE`] together.
pub const TRUST_FILE: &str = "/workspace/ca-certificates.crt";
/// The dates of the image, as variables of a shell.
pub const DATES: &str = "/workspace/dates.env";
/// The named contexts for images that the Dockerfile names with a digest, as a variable of a shell.
pub const CONTEXTS: &str = "/workspace/contexts.env";
/// What `BuildKit` may pull: the pinned parents, and the files and repositories that `ADD` names.
pub const SOURCE_POLICY: &str = "/workspace/source-policy.json";
/// The same without what `ADD` names.
pub const IMAGES_ONLY_POLICY: &str = "/workspace/source-policy-images.json";
/// The folder with the merged `config.json`. The variable `DOCKER_CONFIG` names it.
pub const DOCKER_CONFIG: &str = "/docker-config";
/// The certificates of the operator's image and the private ones together, in a check's pod.
pub const CHECK_TRUST_FILE: &str = "/docker-config/ca-certificates.crt";
/// The mount path of a `ConfigMap` source, in `prepare` only.
pub const CONFIG_MAP: &str = "/source";
/// The mount path of a Git credential, in `prepare` only.
pub const GIT_SECRET: &str = "/git-credential";
/// The folder that holds the mounted registry credentials, each in a folder named by its index from
/// 0. Only `prepare` and the step `credentials` of a check mount them.
pub const CREDENTIALS: &str = "/credentials";
/// The Dockerfile's path in the build context, unless the source gives another one.
pub const DOCKERFILE: &str = "Dockerfile";
