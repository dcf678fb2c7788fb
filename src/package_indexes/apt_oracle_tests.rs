//! The comparison against apt itself: a family of images, and repositories with planted updates.
//! What `apt-get dist-upgrade` would install in each image is what is found, and nothing else.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use globset::GlobSet;
use sha2::{Digest as _, Sha256};

use crate::{
    contents::{Ecosystem, Inventory, Package},
    package_indexes::{
        Advice, AvailableIndex, ImageSources, IndexPriority, read_packages, updates,
    },
};

/// Number of images, of packages that there are, and of packages with a newer version.
const IMAGES: usize = 60;
const PACKAGES: usize = 320;
const PLANTED: usize = 200;
/// How the version of an update follows from that of a package.
const UPDATES: [&str; 5] = ["+deb12u1", "+b1", ".1", "-1", "~~"];

/// A sequence of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % below
    }
}

/// A package of the repositories.
struct Planted {
    name: String,
    architecture: &'static str,
    installed: String,
    /// The versions in main, the security suite, and backports. Empty if it is not there.
    offered: [String; 3],
}

fn planted(numbers: &mut Numbers) -> Vec<Planted> {
    let package = |number: usize| {
        let epoch = ["", "", "1:", "0:"][numbers.next(4)];
        let installed = format!("{epoch}{}.{}-{number}", numbers.next(9), numbers.next(30));
        let architecture = ["amd64", "amd64", "all", "i386"][numbers.next(4)];
        let older = format!("{installed}~rc1");
        let newer = |numbers: &mut Numbers| {
            let update = UPDATES[numbers.next(UPDATES.len())];
            match update {
                // It is older than what is installed, unless it has a higher epoch.
                "~~" => format!("9:{}", installed.rsplit(':').next().expect("a version")),
                update => format!("{installed}{update}"),
            }
        };
        let mut offered = [installed.clone(), String::new(), String::new()];
        if number < PLANTED {
            offered[numbers.next(2)] = newer(numbers);
        } else {
            // Backports of what does not come from backports, and what is older.
            match numbers.next(4) {
                0 => offered[0] = older,
                1 => offered[0].clear(),
                2 => offered[2] = newer(numbers),
                _ => {}
            }
        }
        Planted { name: format!("lib{number}"), architecture, installed, offered }
    };
    (0..PACKAGES).map(package).collect()
}

/// Writes a repository of one folder.
fn repository(root: &Path, name: &str, fields: &str, packages: &str) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("Packages"), packages).expect("a file");
    let hash = hex::encode(Sha256::digest(packages));
    let release = format!(
        "Origin: Test\nSuite: {name}\n{fields}Date: Sat, 17 May 2025 09:21:53 UTC\nSHA256:\n \
         {hash} {} Packages\n",
        packages.len()
    );
    fs::write(folder.join("Release"), release).expect("a file");
    folder
}

fn index(text: &str, priority: IndexPriority, architecture: &str) -> AvailableIndex {
    // apt reads one index per architecture, with the packages for all.
    let paragraphs = text.split("\n\n").filter(|paragraph| {
        paragraph.contains(&format!("Architecture: {architecture}\n"))
            || paragraph.contains("Architecture: all\n")
    });
    let text = paragraphs.fold(String::new(), |text, paragraph| text + paragraph + "\n\n");
    AvailableIndex {
        ecosystem: Ecosystem::Deb,
        architecture: architecture.into(),
        tag: None,
        priority,
        advice: Advice::Other,
        table: Arc::new(read_packages(text.as_bytes()).expect("an index")),
        advisories: None,
    }
}

/// An apt that reads and writes below a folder alone.
struct Apt(PathBuf);

impl Apt {
    fn new(root: &Path, repositories: &[PathBuf]) -> Self {
        for folder in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/log/apt",
            "var/lib/dpkg",
        ] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        let list = repositories.iter().fold(String::new(), |list, folder| {
            list + &format!("deb [trusted=yes] file:{} ./\n", folder.display())
        });
        fs::write(root.join("etc/apt/sources.list"), list).expect("a file");
        fs::write(root.join("var/lib/dpkg/status"), "").expect("a file");
        let config = format!(
            "Dir \"{}\";\nDir::Bin::methods \"/usr/lib/apt/methods\";\n\
             Dir::Bin::dpkg \"/usr/bin/dpkg\";\nAPT::Sandbox::User \"\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; \"i386\"; }};\n\
             Acquire::Languages \"none\";\nDebug::NoLocking \"1\";\n\
             APT::Get::Always-Include-Phased-Updates \"1\";\n",
            root.display()
        );
        fs::write(root.join("apt.conf"), config).expect("a file");
        Self(root.to_owned())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = Command::new("apt-get")
            .env("APT_CONFIG", self.0.join("apt.conf"))
            .env("LC_ALL", "C")
            .args(arguments)
            .output()
            .expect("apt-get runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Returns what would be installed, as `name available`.
    fn upgrades(&self, status: &str) -> BTreeSet<String> {
        fs::write(self.0.join("var/lib/dpkg/status"), status).expect("a file");
        let output = self.run(&["-s", "dist-upgrade"]);
        let text = String::from_utf8(output.stdout).expect("text");
        let line = |line: &str| {
            // `Inst name:i386 [1] (2 Origin [i386])`
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let available = rest.split_once('(')?.1.split(' ').next()?;
            let name = name.split(':').next()?;
            Some(format!("{name} {available}"))
        };
        text.lines().filter_map(line).collect()
    }
}

fn has_apt() -> bool {
    let runs = |name: &str| Command::new(name).arg("--version").output().is_ok();
    runs("apt-get") && Path::new("/usr/lib/apt/methods/file").exists()
}

#[test]
fn what_is_found_is_what_apt_would_install() {
    if !has_apt() {
        eprintln!("this machine has no apt: nothing is compared");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let numbers = &mut Numbers(7);
    let packages = planted(numbers);
    let text = |position: usize| {
        packages.iter().filter(|package| !package.offered[position].is_empty()).fold(
            String::new(),
            |mut text, package| {
                let Planted { name, architecture, offered, .. } = package;
                let version = &offered[position];
                _ = write!(
                    text,
                    "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n\
                     Filename: {name}.deb\nSize: 1\nSHA256: {:064}\n\n",
                    1
                );
                text
            },
        )
    };
    let backports = "NotAutomatic: yes\nButAutomaticUpgrades: yes\n";
    let texts = [text(0), text(1), text(2)];
    let apt = Apt::new(
        folder.path(),
        &[
            repository(folder.path(), "main", "", &texts[0]),
            repository(folder.path(), "security", "", &texts[1]),
            repository(folder.path(), "backports", backports, &texts[2]),
        ],
    );
    apt.run(&["update"]);
    let priorities = [IndexPriority::Default, IndexPriority::Default, IndexPriority::Upgrades];
    let indexes: Vec<AvailableIndex> = ["amd64", "i386"]
        .iter()
        .flat_map(|architecture| {
            let texts = texts.iter().zip(priorities);
            texts.map(|(text, priority)| index(text, priority, architecture))
        })
        .collect();
    let (mut found_in_all, mut planted_in_all) = (0, BTreeSet::new());
    for image in 0..IMAGES {
        let mut inventory = Inventory::default();
        let mut status = String::new();
        for package in &packages {
            if numbers.next(2) == 0 {
                continue;
            }
            let Planted { name, architecture, installed, .. } = package;
            let want = if numbers.next(20) == 0 { "hold" } else { "install" };
            _ = write!(
                status,
                "Package: {name}\nStatus: {want} ok installed\nVersion: {installed}\n\
                 Architecture: {architecture}\nMaintainer: a\nDescription: b\n\n"
            );
            if want == "hold" {
                inventory.held.insert(format!("{name}:{architecture}"));
            }
            inventory.packages.packages.insert(Package {
                name: name.clone(),
                architecture: (*architecture).into(),
                version: installed.clone(),
                ecosystem: Ecosystem::Deb,
                source: String::new(),
            });
        }
        let sources = ImageSources { architecture: "amd64".into(), ..ImageSources::default() };
        let found = updates(&inventory, &sources, &indexes, &GlobSet::empty());
        let found: BTreeSet<String> = found
            .iter()
            .filter(|update| !update.is_held)
            .map(|update| format!("{} {}", update.package.name, update.available))
            .collect();
        let expected = apt.upgrades(&status);
        assert_eq!(found, expected, "image {image}");
        found_in_all += found.len();
        planted_in_all.extend(expected);
    }
    println!("{found_in_all} updates in {IMAGES} images, {} different", planted_in_all.len());
    assert_eq!(planted_in_all.len(), PLANTED, "every planted update is in an image");
}
