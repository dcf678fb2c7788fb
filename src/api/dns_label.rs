//! Names that are DNS labels, made from other texts.

/// Returns a text as a DNS label, which may be too long or empty.
#[must_use]
pub fn to_label(text: &str) -> String {
    let mut label = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            label.push(c.to_ascii_lowercase());
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_cannot_have_becomes_a_dash() {
        for (text, label) in [
            ("alpine:3.20", "alpine-3-20"),
            ("Team/App__x", "team-app-x"),
            ("--a--", "a"),
            ("My_App 3.12/", "my-app-3-12"),
            ("日本", ""),
            ("/.:", ""),
        ] {
            assert_eq!(to_label(text), label, "{text}");
        }
    }
}
