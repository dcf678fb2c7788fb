//! Patterns of fields that may be templates. The schema uses the wider one, because the API server
//! sees templates as users write them. What a template renders to must match the narrower one.

/// Defines the pattern of a field, and that of the field or of a template for it.
macro_rules! patterns {
    ($($(#[$doc:meta])* $name:ident, $or_template:ident = $pattern:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: &str = concat!("^(", $pattern, ")$");
            $(#[$doc])*
            /// It may be a template.
            pub const $or_template: &str = concat!("^(", $pattern, r"|.*\{\{.*)$");
        )*
    };
}

patterns! {
    /// A DNS label.
    NAME, NAME_OR_TEMPLATE = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
    /// The last part of a repository.
    PATH, PATH_OR_TEMPLATE = "[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*";
    /// A stage of a Dockerfile.
    TARGET, TARGET_OR_TEMPLATE = "[A-Za-z0-9][A-Za-z0-9_.-]*";
    /// A build argument.
    ARG, ARG_OR_TEMPLATE = "[A-Za-z_][A-Za-z0-9_]*";
    /// A branch, a tag or a commit.
    GIT_REVISION, GIT_REVISION_OR_TEMPLATE = "[A-Za-z0-9_][A-Za-z0-9_./+-]*";
    /// A directory of a Git repository.
    GIT_FOLDER, GIT_FOLDER_OR_TEMPLATE = "[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*/?";
    /// A path in a Git repository.
    GIT_PATH, GIT_PATH_OR_TEMPLATE = "[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*";
}
