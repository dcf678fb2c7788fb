//! Settings of images, as distributions and users write them.

use std::collections::BTreeMap;

use crate::{
    contents::{Ecosystem, Inventory, Package, PackageSettings},
    package_indexes::{ImageSources, Location},
};

/// An image with these packages, as `name architecture`, and these files.
fn inventory(ecosystem: Ecosystem, packages: &[&str], files: &[(&str, &str)]) -> Inventory {
    let package = |text: &&str| {
        let (name, architecture) = text.split_once(' ').expect("name architecture");
        Package {
            name: name.into(),
            architecture: architecture.into(),
            version: "1".into(),
            ecosystem,
            source: String::new(),
        }
    };
    let files: BTreeMap<String, bytes::Bytes> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec().into()))
        .collect();
    let mut inventory = Inventory {
        settings: PackageSettings { files, ..PackageSettings::default() },
        ..Inventory::default()
    };
    inventory.packages.packages = packages.iter().map(package).collect();
    inventory
}

fn deb(files: &[(&str, &str)]) -> ImageSources {
    ImageSources::read(&inventory(
        Ecosystem::Deb,
        &["libc6 amd64", "bash amd64", "libc6 i386", "tzdata all"],
        files,
    ))
}

/// The repositories, each as a line.
fn lines(sources: &ImageSources) -> Vec<String> {
    let line = |location: &Location| match location {
        Location::Deb { components, architectures, .. } => {
            format!("{location} {} [{}]", components.join(" "), architectures.join(","))
        }
        _ => location.to_string(),
    };
    sources.repositories.iter().map(|repository| line(&repository.location)).collect()
}

#[test]
fn lists_of_apt_are_read() {
    let sources = deb(&[
        (
            "etc/apt/sources.list",
            "# none\n\
             deb http://deb.example.com/debian/ bookworm main contrib # more\n\
             deb-src http://deb.example.com/debian bookworm main\n\
             deb [arch=amd64,arm64 signed-by=/k.gpg] https://other.example.com/apt ./\n\
             deb [arch=arm64] http://deb.example.com/debian bookworm main\n",
        ),
        ("etc/apt/sources.list.d/old.list.save", "deb http://unread.example.com a main"),
    ]);
    assert_eq!(
        lines(&sources),
        [
            "http://deb.example.com/debian bookworm main contrib [amd64,i386]",
            "https://other.example.com/apt ./  [amd64]",
        ]
    );
    assert_eq!(sources.problems, Vec::<String>::new());
    assert_eq!(sources.architecture, "amd64");
}

#[test]
fn fields_of_apt_are_read() {
    let sources = deb(&[(
        "etc/apt/sources.list.d/debian.sources",
        "Types: deb deb-src\n# a comment\nURIs: http://deb.example.com/debian\n\
         Suites: bookworm bookworm-updates\nComponents: main\n  contrib\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
         Types: deb\nURIs: http://off.example.com/\nSuites: a\nComponents: b\nEnabled: no\n\n\
         Types: deb-src\nURIs: http://src.example.com/\nSuites: a\nComponents: b\n",
    )]);
    assert_eq!(
        lines(&sources),
        [
            "http://deb.example.com/debian bookworm main contrib [amd64,i386]",
            "http://deb.example.com/debian bookworm-updates main contrib [amd64,i386]",
        ]
    );
    assert_eq!(sources.problems, Vec::<String>::new());
}

#[test]
fn repositories_of_apk_and_what_asks_for_tagged_ones_are_read() {
    let image = inventory(
        Ecosystem::Apk,
        &["musl x86_64", "busybox x86_64", "data noarch"],
        &[
            (
                "etc/apk/repositories",
                "https://dl.example.com/alpine/v3.20/main\n# no\n\
                 @edge https://dl.example.com/alpine/edge/main\n/media/cdrom/apks\n",
            ),
            ("etc/apk/world", "busybox\ncurl@edge\nnginx=1.2-r0\nvim>=9\nlua~5.4\n!bash\n"),
        ],
    );
    let sources = ImageSources::read(&image);
    assert_eq!(
        lines(&sources),
        [
            "https://dl.example.com/alpine/v3.20/main/x86_64",
            "https://dl.example.com/alpine/edge/main/x86_64",
        ]
    );
    assert_eq!(sources.repositories[1].tag.as_deref(), Some("edge"));
    assert_eq!(sources.tagged.get("curl").map(String::as_str), Some("edge"));
    assert_eq!(sources.pinned.iter().map(String::as_str).collect::<Vec<_>>(), ["lua", "nginx"]);
    assert_eq!(
        sources.problems,
        ["etc/apk/repositories:4 names a repository by a path, which cannot be requested"]
    );
}

#[test]
fn repositories_of_rpm_are_read_with_their_variables() {
    let image = inventory(
        Ecosystem::Rpm,
        &["bash x86_64", "glibc x86_64", "tzdata noarch"],
        &[
            (
                "etc/yum.repos.d/a.repo",
                "[base]\nname=Base\n\
                 baseurl=https://cdn.example.com/$releasever/${basearch}/$channel/os/\n\
                 # one\n[off]\nbaseurl=https://off.example.com\nenabled = 0\n\
                 [metalink]\nmetalink=https://mirrors.example.com/metalink?repo=a\n\
                 [unknown]\nbaseurl=https://cdn.example.com/$nothing\n\
                 [login]\nbaseurl=https://cdn.example.com/l\nusername=u\npassword=secret\n\
                 [excluded]\nbaseurl=https://cdn.example.com/e\nexclude=kernel*\n",
            ),
            ("usr/lib/os-release", "ID=\"rhel\"\nVERSION_ID=\"9.4\"\n"),
            ("etc/dnf/vars/channel", "stable\n"),
        ],
    );
    let sources = ImageSources::read(&image);
    assert_eq!(
        lines(&sources),
        ["https://cdn.example.com/9/x86_64/stable/os", "https://cdn.example.com/e"]
    );
    let problems = sources.problems.join("\n");
    for part in [
        "a.repo:8 has metalink, which is not followed",
        "a.repo:10 has a variable in its `baseurl`",
        "a.repo:12 needs a credential",
        "a.repo:16 excludes packages",
    ] {
        assert!(problems.contains(part), "{part} is not in {problems}");
    }
    assert!(!problems.contains("secret"), "{problems}");
}

/// Credentials are never copied, wherever a URL has them.
#[test]
fn what_cannot_be_requested_is_named_without_its_credential() {
    let sources = deb(&[(
        "etc/apt/sources.list",
        "deb https://user:s3cret@deb.example.com/a b main\n\
         deb https://deb.example.com/a?token=s3cret b main\n\
         deb file:/srv/s3cret b main\n\
         deb cdrom:[Debian s3cret] b main\n\
         deb [arch=amd64 http://deb.example.com/a b main\n\
         deb http://deb.example.com/a ../../x main\n\
         deb http://deb.example.com/a bookworm\n\
         deb http://deb.example.com/a\n",
    )]);
    assert_eq!(lines(&sources), Vec::<String>::new());
    assert_eq!(sources.problems.len(), 8, "{:#?}", sources.problems);
    let problems = sources.problems.join("\n");
    assert!(!problems.contains("s3cret"), "{problems}");
    for part in [
        "sources.list:1 names a repository at deb.example.com with a credential",
        "sources.list:2 names a repository at deb.example.com with a query",
        "sources.list:3 names a repository by file",
        "sources.list:4 names a repository by cdrom",
        "sources.list:5 has options without an end",
    ] {
        assert!(problems.contains(part), "{part} is not in {problems}");
    }
}

#[test]
fn many_repositories_are_bounded() {
    let words = "x ".repeat(100_000);
    let list = format!("Types: deb\nURIs: {words}\nSuites: {words}\nComponents: main\n");
    let sources = deb(&[("etc/apt/sources.list.d/a.sources", &list)]);
    assert!(sources.problems[0].contains("lists more than 256"), "{:?}", sources.problems);
    let list = (0..1000).fold(String::new(), |list, number| {
        list + &format!("deb http://deb.example.com/{number} a main\n")
    });
    let sources = deb(&[("etc/apt/sources.list", &list)]);
    assert_eq!(sources.repositories.len(), 256);
    assert!(sources.problems.len() <= 64, "{}", sources.problems.len());
}

#[test]
fn pins_of_apt_are_named() {
    let sources = deb(&[("etc/apt/preferences.d/a", "Package: *\nPin: release a=stable\n")]);
    assert_eq!(
        sources.problems,
        ["etc/apt/preferences.d/a may pin packages, which is not applied"]
    );
}

#[test]
fn keys_are_those_that_the_repository_is_signed_by() {
    let must = |line: &str| {
        let image = inventory(Ecosystem::Deb, &["a amd64"], &[("etc/apt/sources.list", line)]);
        let sources = ImageSources::read(&image);
        sources.repositories[0].must_be_signed(&image.settings)
    };
    assert!(must("deb [signed-by=/usr/share/keyrings/a.gpg] http://deb.example.com a main"));
    assert!(must("deb [signed-by=0123456789ABCDEF] http://deb.example.com a main"));
    assert!(!must("deb [trusted=yes] http://deb.example.com a main"));
    assert!(!must("deb [trusted=yes signed-by=/a.gpg] http://deb.example.com a main"));
    assert!(!must("deb http://deb.example.com a main"), "the image has no key at all");
}
