//! Normalization of an image reference to its full repository, so that two spellings of one
//! repository compare equal.
//!
//! It does not validate: whatever the API server accepted in a pod template is used as it is.

/// The names of Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Returns the registry and path of `image` without tag and digest, completed with the defaults of
/// container runtimes (`alpine` is `docker.io/library/alpine`).
#[must_use]
pub fn normalize_repository(image: &str) -> String {
    let without_digest = image.split_once('@').map_or(image, |(name, _)| name);
    // A colon after the last slash starts a tag; one before it starts a port.
    let name = match without_digest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => without_digest,
    };
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", name),
    };
    let registry = registry.to_ascii_lowercase();
    let registry = registry.strip_suffix(":443").unwrap_or(&registry);
    let registry = if DOCKER_HUB.contains(&registry) { "docker.io" } else { registry };
    let library = if registry == "docker.io" && !path.contains('/') { "library/" } else { "" };
    format!("{registry}/{library}{path}")
}

/// Returns what `folder/name` normalizes to, without the name.
#[must_use]
pub fn normalize_folder(folder: &str) -> String {
    let repository = normalize_repository(&format!("{folder}/x"));
    repository.strip_suffix("/x").unwrap_or(&repository).to_owned()
}

/// Whether the reference has a digest.
#[must_use]
pub fn names_digest(image: &str) -> bool {
    image.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_repository_are_equal() {
        for (image, repository) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3.20", "docker.io/library/alpine"),
            ("index.docker.io/library/alpine@sha256:aa", "docker.io/library/alpine"),
            ("grafana/loki:2", "docker.io/grafana/loki"),
            ("localhost/app", "localhost/app"),
            ("127.0.0.1:5000/team/app:1.0@sha256:aa", "127.0.0.1:5000/team/app"),
            ("Registry.Example.com/team/app", "registry.example.com/team/app"),
            ("registry.example.com:443/team/app:1", "registry.example.com/team/app"),
            ("Index.docker.io:443/alpine", "docker.io/library/alpine"),
            ("registry:5000/app", "registry:5000/app"),
        ] {
            assert_eq!(normalize_repository(image), repository, "{image}");
        }
        for (folder, normalized) in [
            ("Registry.example.com:443/team", "registry.example.com/team"),
            ("index.docker.io/team", "docker.io/team"),
            ("registry.example.com", "registry.example.com"),
        ] {
            assert_eq!(normalize_folder(folder), normalized, "{folder}");
        }
    }
}
