//! What the kernel reports about a process: its CPU time, its memory and its command line.

use std::{fs, time::Duration};

/// Clock ticks per second in `/proc`; 100 on every Linux in use.
const TICKS_PER_SECOND: u64 = 100;
/// The default limits of a controller manager: requests per second, and requests in a burst.
const DEFAULT_LIMITS: (&str, &str) = ("20", "30");

/// The CPU time of a process so far, in user and kernel mode.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The second field, the program's name, may contain blanks: count the fields after it.
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The peak resident memory of a process, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") * 1024
}

/// The limits of the controller manager's requests to the API server, from its command line.
pub fn controller_manager_limits(cluster: &str) -> String {
    let recorded = fs::read_to_string(format!("/run/groundswell/{cluster}/controller-manager.pid"))
        .expect("a process");
    let pid = recorded.split(' ').next().expect("an id");
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a running process");
    let mut arguments = command.split('\0');
    let (mut qps, mut burst) = DEFAULT_LIMITS;
    while let Some(argument) = arguments.next() {
        match argument {
            "--kube-api-qps" => qps = arguments.next().expect("a number"),
            "--kube-api-burst" => burst = arguments.next().expect("a number"),
            _ => {}
        }
    }
    format!(
        "{qps} requests/s, bursts of {burst} (stock: {}, {})",
        DEFAULT_LIMITS.0, DEFAULT_LIMITS.1
    )
}
