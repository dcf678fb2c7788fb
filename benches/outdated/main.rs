//! The packages of 1,000 images against indexes as large as Debian's: time and memory.
//!
//! `make bench` runs it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark says what is wrong by failing"
)]
#![allow(clippy::cast_precision_loss, reason = "bytes far below 2^52")]

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use globset::GlobSet;
use groundswell::{
    contents::{Ecosystem, Inventory, Package},
    package_indexes::{
        Advice, AvailableIndex, ImageSources, IndexPriority, read_packages, updates,
    },
};

/// Numbers of packages in the indexes, of images, and of packages of an image.
const MAIN: usize = 64_000;
const SECURITY: usize = 5_000;
const IMAGES: usize = 1_000;
const INSTALLED: usize = 150;
/// What all comparisons together may take.
const GOAL: Duration = Duration::from_secs(1);
const MIB: f64 = (1 << 20) as f64;

fn main() {
    let before = memory("VmRSS");
    let started = Instant::now();
    let main = index(MAIN, "", Advice::Other);
    let security = index(SECURITY, "+deb12u1", Advice::Security);
    let reading = started.elapsed();
    let tables = main.table.memory() + security.table.memory();
    println!("indexes    {} and {} packages", main.table.len(), security.table.len());
    println!("read in    {reading:.2?}, with generation and gzip");
    println!("tables     {:.1} MiB", tables as f64 / MIB);

    let images: Vec<Inventory> = (0..IMAGES).map(image).collect();
    let sources = ImageSources { architecture: "amd64".into(), ..ImageSources::default() };
    let indexes = [main, security];
    let started = Instant::now();
    let found: usize = images
        .iter()
        .map(|image| updates(image, &sources, &indexes, &GlobSet::empty()).len())
        .sum();
    let comparing = started.elapsed();
    let verdict = if comparing < GOAL { "met" } else { "missed" };
    println!("compared   {IMAGES} images of {INSTALLED} packages in {comparing:.2?}, on one core");
    println!("found      {found} outdated packages");
    println!("memory     {:.1} MiB at most, {:.1} before", memory("VmHWM"), before);
    println!("goal       {GOAL:?} for all comparisons: {verdict}");
    assert!(found > 0, "nothing is outdated");
}

/// Generates an index and reads it.
fn index(packages: usize, suffix: &str, advice: Advice) -> AvailableIndex {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for number in 0..packages {
        let mut text = String::new();
        write!(
            text,
            "Package: {}\nSource: source{number}\nVersion: {}{suffix}\nInstalled-Size: {number}\n\
             Maintainer: Packagers <packagers@deb.example>\nArchitecture: amd64\n\
             Depends: libc6 (>= 2.34), libpackage{} (>= 1.0)\nDescription: a package\n\
             Section: libs\nPriority: optional\nFilename: pool/main/l/{number}.deb\n\
             Size: {number}\nSHA256: {number:064x}\n\n",
            name(number),
            version(number),
            number / 2
        )
        .expect("a text");
        encoder.write_all(text.as_bytes()).expect("compressed");
    }
    let file = encoder.finish().expect("compressed");
    AvailableIndex {
        ecosystem: Ecosystem::Deb,
        architecture: "amd64".into(),
        tag: None,
        priority: IndexPriority::Default,
        advice,
        table: Arc::new(read_packages(&*file).expect("an index")),
        advisories: None,
    }
}

fn name(number: usize) -> String {
    format!("libpackage{number}-dev")
}

fn version(number: usize) -> String {
    format!("1:{}.{}.{}-{}+b1", number % 7, number % 31, number % 97, number % 5)
}

/// An image whose packages are spread over the index. One in ten has an older version.
fn image(number: usize) -> Inventory {
    let package = |position: usize| {
        let package = (number * 61 + position * 397) % MAIN;
        let version = version(package);
        let older = version.replace("+b1", "");
        Package {
            name: name(package),
            version: if package.is_multiple_of(10) { older } else { version },
            architecture: "amd64".into(),
            ecosystem: Ecosystem::Deb,
            source: String::new(),
        }
    };
    let mut inventory = Inventory::default();
    inventory.packages.packages = (0..INSTALLED).map(package).collect();
    inventory
}

/// Returns a figure of the process's memory in MiB.
fn memory(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("KiB");
    kib / 1024.0
}
