//! What the kernel says of a process: the time and the memory that it took, and what it was started
//! with.

use std::{fs, time::Duration};

/// Clock ticks per second in `/proc`; 100 on every Linux that matters.
const TICKS: u64 = 100;
/// What a controller manager takes if it is not told otherwise: requests per second, and in a
/// burst.
const STOCK: (&str, &str) = ("20", "30");

/// The processor time that a process has taken so far, in user and in kernel mode.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The second field, the program's name, may hold blanks: count from behind it.
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// The most memory, in bytes, that a process has had resident at once.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

/// How fast the cluster's controller manager may ask the API server, from its own command line.
pub fn controller_manager_limits(cluster: &str) -> String {
    let recorded = fs::read_to_string(format!("/run/groundswell/{cluster}/controller-manager.pid"))
        .expect("a process");
    let pid = recorded.split(' ').next().expect("an id");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a running process");
    let mut arguments = command.split('\0');
    let (mut qps, mut burst) = STOCK;
    while let Some(argument) = arguments.next() {
        match argument {
            "--kube-api-qps" => qps = arguments.next().expect("a number"),
            "--kube-api-burst" => burst = arguments.next().expect("a number"),
            _ => {}
        }
    }
    format!("{qps} requests/s, bursts of {burst} (stock: {}, {})", STOCK.0, STOCK.1)
}
