//! A bound on what the JSON of a registry becomes in memory. A number of two bytes takes about 64
//! there while it is parsed, so that a bound on the length alone is not enough. No IO.

/// Maximum number of values in a manifest or a configuration, the keys of objects included. Those
/// of images have some hundreds.
pub(super) const MAX_VALUES: usize = 1 << 16;

/// Rejects JSON that has too many values, without parsing it. The error is a predicate whose
/// subject is the registry; `what` says what it has sent.
pub(super) fn check_values(json: &[u8], what: &str) -> Result<(), String> {
    let (mut values, mut is_in_text, mut is_escaped) = (1_usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_text => is_escaped = true,
            b'"' => is_in_text = !is_in_text,
            b',' | b':' | b'[' | b'{' if !is_in_text => values += 1,
            _ => {}
        }
    }
    if values > MAX_VALUES {
        return Err(format!("sent {what} with more than {MAX_VALUES} values, which is the limit"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts_and_bounded() {
        let numbers = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert_eq!(check_values(numbers(MAX_VALUES - 1).as_bytes(), "it"), Ok(()));
        let error = check_values(numbers(MAX_VALUES).as_bytes(), "a list").expect_err("too many");
        assert_eq!(error, "sent a list with more than 65536 values, which is the limit");
        for container in ["[", "{\"a\":"] {
            assert!(check_values(container.repeat(MAX_VALUES).as_bytes(), "it").is_err());
        }
        let label = format!("{{\"label\":\"\\\\\\\"{}\"}}", ",:[{".repeat(MAX_VALUES));
        assert_eq!(check_values(label.as_bytes(), "it"), Ok(()), "a long label");
    }
}
