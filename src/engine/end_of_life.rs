//! Upstreams whose distribution is no longer supported: nobody publishes fixes for it, so its tag
//! does not move any more, and a family that follows it looks current for ever. Pure: the dates are
//! a table in the program, and the day is an argument.
//!
//! Known are the official images of Debian, Ubuntu and Alpine, on Docker Hub and in every mirror
//! that keeps the path `library/`. A tag that names no release (`latest`, `stable`, `edge`) follows
//! the distribution and has no end.

use std::sync::LazyLock;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::{
    api::{Upstream, condition::Reason},
    engine::Problem,
};

/// The table that `dev/end-of-life` writes.
const TABLE: &str = include_str!("end_of_life.tsv");
/// The folder of the official images on Docker Hub.
const OFFICIAL: &str = "library";
/// How many upstreams a message names.
const MAX_NAMED: usize = 3;

/// The end of the support of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    image: &'static str,
    version: &'static str,
    codename: &'static str,
    /// The last day with support.
    supported_until: Date,
}

static RELEASES: LazyLock<Vec<Release>> = LazyLock::new(|| releases(TABLE));

/// Reads the table. A row that cannot be read is skipped; a test reads each.
fn releases(table: &'static str) -> Vec<Release> {
    let row = |line: &'static str| {
        let mut columns = line.split('\t');
        Some(Release {
            image: columns.next()?,
            version: columns.next()?,
            codename: columns.next()?,
            supported_until: columns.next()?.parse().ok()?,
        })
    };
    table.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

/// An upstream that follows a release without support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedUpstream {
    /// The upstream's name.
    pub upstream: String,
    /// The reference that it follows.
    pub reference: String,
    /// The last day with support.
    pub supported_until: Date,
    /// The image and the tag to follow instead; `None` if the table has no release with support.
    pub successor: Option<String>,
}

/// Returns the upstreams that follow a release whose support has ended.
#[must_use]
pub fn ended_upstreams(upstreams: &[Upstream], now: Timestamp) -> Vec<EndedUpstream> {
    let today = now.to_zoned(TimeZone::UTC).date();
    upstreams.iter().filter_map(|upstream| ended(upstream, today)).collect()
}

/// Returns what a user reads about these upstreams; `None` if there are none.
#[must_use]
pub fn problem(ended: &[EndedUpstream]) -> Option<Problem> {
    let sentence = |ended: &EndedUpstream| {
        let EndedUpstream { upstream, reference, supported_until, successor } = ended;
        let next = successor.as_deref().unwrap_or("a release with support");
        format!(
            "upstream {upstream} follows {reference}, whose support ended on {supported_until}; \
             follow {next}"
        )
    };
    let mut sentences: Vec<String> = ended.iter().take(MAX_NAMED).map(sentence).collect();
    if ended.len() > MAX_NAMED {
        sentences.push(format!("and {} more", ended.len() - MAX_NAMED));
    }
    let message = sentences.join("; ");
    (!ended.is_empty()).then_some(Problem { reason: Reason::UpstreamEndOfLife, message })
}

fn ended(upstream: &Upstream, today: Date) -> Option<EndedUpstream> {
    let image = official_image(&upstream.image)?;
    let (name, variant) = match upstream.follow.tag.split_once('-') {
        Some((name, variant)) => (name, variant),
        None => (upstream.follow.tag.as_str(), ""),
    };
    let release = release_of(image, name)?;
    if today <= release.supported_until {
        return None;
    }
    let newest = RELEASES
        .iter()
        .filter(|other| other.image == image && today <= other.supported_until)
        .max_by_key(|other| other.supported_until);
    let successor = newest.map(|newest| {
        let is_codename = name == release.codename;
        let tag = if is_codename { newest.codename } else { newest.version };
        let slim = if variant.split('-').any(|part| part == "slim") { "-slim" } else { "" };
        format!("{image}:{tag}{slim}")
    });
    Some(EndedUpstream {
        upstream: upstream.name.clone(),
        reference: upstream.reference(),
        supported_until: release.supported_until,
        successor,
    })
}

/// Returns the name of an official image: `debian` for `docker.io/library/debian`, for
/// `docker.io/debian`, and for `mirror.example.com/hub/library/debian`.
fn official_image(image: &str) -> Option<&str> {
    let (registry, path) = image.split_once('/')?;
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_docker_hub =
        ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&registry);
    let is_official =
        folder.rsplit('/').next() == Some(OFFICIAL) || folder.is_empty() && is_docker_hub;
    is_official.then_some(name)
}

/// Returns the release that a tag without its variant names: by its codename, its version, or a
/// version with further parts, as `10.13` or `3.20.1`.
fn release_of(image: &str, name: &str) -> Option<&'static Release> {
    let mut name = name;
    loop {
        let found = RELEASES.iter().find(|release| {
            release.image == image && [release.version, release.codename].contains(&name)
        });
        if found.is_some() {
            return found;
        }
        (name, _) = name.rsplit_once('.')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Follow;

    fn upstream(image: &str, tag: &str) -> Upstream {
        Upstream {
            name: "base".into(),
            image: image.into(),
            follow: Follow { tag: tag.into() },
            ..Upstream::default()
        }
    }

    fn on(day: &str, image: &str, tag: &str) -> Option<EndedUpstream> {
        let now: Timestamp = format!("{day}T12:00:00Z").parse().expect("a time");
        ended_upstreams(&[upstream(image, tag)], now).pop()
    }

    #[test]
    fn every_row_of_the_table_is_read_and_each_image_has_a_release_with_support() {
        let rows = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(RELEASES.len(), rows);
        let written: Date = TABLE
            .lines()
            .find_map(|line| {
                line.strip_prefix("# debian, ubuntu: ")?.rsplit(' ').next()?.parse().ok()
            })
            .expect("the day on which it was written");
        for image in ["debian", "ubuntu", "alpine"] {
            let of_image = RELEASES.iter().filter(|release| release.image == image);
            assert!(of_image.clone().any(|r| r.supported_until > written), "{image}");
            assert!(of_image.clone().any(|r| r.supported_until < written), "{image}");
        }
    }

    #[test]
    fn the_end_is_found_by_codename_and_by_version() {
        for (image, tag, until, successor) in [
            ("docker.io/library/debian", "buster", "2024-06-30", "debian:trixie"),
            ("docker.io/debian", "buster-slim", "2024-06-30", "debian:trixie-slim"),
            (
                "docker.io/library/debian",
                "buster-20240612-slim",
                "2024-06-30",
                "debian:trixie-slim",
            ),
            ("mirror.example.com:5000/hub/library/debian", "10", "2024-06-30", "debian:13"),
            ("docker.io/library/debian", "10.13-slim", "2024-06-30", "debian:13-slim"),
            ("docker.io/library/ubuntu", "20.04", "2025-05-29", "ubuntu:26.04"),
            ("docker.io/library/ubuntu", "focal-20240530", "2025-05-29", "ubuntu:resolute"),
            ("docker.io/library/alpine", "3.20", "2026-04-01", "alpine:3.24"),
            ("public.ecr.aws/docker/library/alpine", "3.20.1", "2026-04-01", "alpine:3.24"),
        ] {
            let found = on("2026-11-29", image, tag).unwrap_or_else(|| panic!("{image}:{tag}"));
            assert_eq!(found.supported_until.to_string(), until, "{image}:{tag}");
            assert_eq!(found.successor.as_deref(), Some(successor), "{image}:{tag}");
        }
    }

    #[test]
    fn releases_with_support_and_unknown_ones_are_not_reported() {
        for (image, tag) in [
            ("docker.io/library/debian", "bookworm"),
            ("docker.io/library/debian", "13-slim"),
            ("docker.io/library/debian", "stable-slim"),
            ("docker.io/library/debian", "1"),
            ("docker.io/library/alpine", "3"),
            ("docker.io/library/alpine", "edge"),
            ("docker.io/library/ubuntu", "latest"),
            ("docker.io/library/python", "3.9-buster"),
            ("registry.example.com/team/debian", "buster"),
            ("registry.example.com/debian", "buster"),
        ] {
            assert_eq!(on("2026-11-29", image, tag), None, "{image}:{tag}");
        }
    }

    #[test]
    fn the_last_day_is_supported() {
        let image = "docker.io/library/debian";
        assert_eq!(on("2024-06-30", image, "buster"), None);
        assert!(on("2024-07-01", image, "buster").is_some());
        // The table knows no release that is supported then.
        let found = on("2099-01-01", image, "trixie").expect("an end");
        assert_eq!(found.successor, None);
        let message = problem(&[found]).expect("a problem").message;
        assert!(
            message.ends_with("ended on 2030-06-30; follow a release with support"),
            "{message}"
        );
    }

    #[test]
    fn the_message_names_upstream_date_and_successor() {
        assert_eq!(problem(&[]), None);
        let buster = on("2026-11-29", "docker.io/library/debian", "buster").expect("an end");
        let one = problem(std::slice::from_ref(&buster)).expect("a problem");
        assert_eq!(one.reason, Reason::UpstreamEndOfLife);
        assert_eq!(
            one.message,
            "upstream base follows docker.io/library/debian:buster, whose support ended on \
             2024-06-30; follow debian:trixie"
        );
        let five = problem(&vec![buster; 5]).expect("a problem").message;
        assert!(five.ends_with("; and 2 more"), "{five}");
    }
}
