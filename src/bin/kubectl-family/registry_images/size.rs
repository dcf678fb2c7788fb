//! Sizes in bytes, as users read them.

/// Returns a size with at most three digits and a decimal unit, as registries and Docker write it:
/// `12.3 MB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        // What rounds to 1000 is written in the larger unit.
        if size < 999.5 {
            break;
        }
        size /= 1000.0;
        unit = larger;
    }
    let decimals = usize::from(size < 99.95) + usize::from(size < 9.995);
    format!("{size:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_600, "1.00 MB"),
            (123_456_789, "123 MB"),
            (5_000_000_000, "5.00 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(human_size(bytes), expected);
        }
    }
}
