//! What has changed between two views, a line each: for output that is no terminal.

use jiff::Timestamp;

use groundswell::api::{ImageFamily, ManagedImage, condition};

use crate::{
    output::table::one_line,
    status::{
        render::{counts, explanation},
        view::View,
    },
};

/// Returns a line for each change.
pub fn changes(before: &View, after: &View, now: Timestamp) -> String {
    let mut lines = Vec::new();
    for (key, family) in &after.families {
        let known = before.families.get(key).map(of_family);
        let new = of_family(family);
        if known.as_ref() != Some(&new) {
            lines.push(format!("family {}/{}: {new}", key.0, key.1));
        }
    }
    for key in before.families.keys().filter(|key| !after.families.contains_key(*key)) {
        lines.push(format!("family {}/{}: it was deleted", key.0, key.1));
    }
    for (key, image) in &after.images {
        let (known, new) = (before.images.get(key).map(state), state(image));
        if known == Some(new) {
            continue;
        }
        let from = match known {
            Some(known) if known.state != new.state => format!("{} -> ", known.state),
            _ => String::new(),
        };
        let status = image.status.as_ref();
        let why = status.map(|status| explanation(&status.reason, &status.message));
        let why = why.unwrap_or_else(|| "not reconciled yet".into());
        lines.push(format!("image {}: {from}{}: {why}", image.spec.image, new.state));
    }
    for (_, image) in before.images.iter().filter(|(key, _)| !after.images.contains_key(*key)) {
        lines.push(format!("image {}: it was deleted", image.spec.image));
    }
    lines.into_iter().map(|line| one_line(&format!("{now:.0} {line}")) + "\n").collect()
}

/// What a line says of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ShownState<'a> {
    state: &'a str,
    reason: &'a str,
    /// Number of the last verified build.
    build: Option<i64>,
}

fn state(image: &ManagedImage) -> ShownState<'_> {
    let unknown = ShownState { state: "Unknown", reason: "", build: None };
    image.status.as_ref().map_or(unknown, |status| ShownState {
        state: status.state.as_str(),
        reason: &status.reason,
        build: status.build,
    })
}

/// Returns what a line says of a family.
fn of_family(family: &ImageFamily) -> String {
    let Some(status) = &family.status else { return "not reconciled yet".into() };
    let mut conditions = status.conditions.iter();
    let ready = conditions.find(|condition| condition.type_ == condition::READY);
    let ready = ready.map_or_else(String::new, |ready| {
        format!("; {}", explanation(&ready.reason, &ready.message))
    });
    let names: Vec<&str> = status.cascades.iter().map(|one| one.name.as_str()).collect();
    let cascades = if names.is_empty() { "none".into() } else { names.join(", ") };
    format!("{}; cascades: {cascades}{ready}", counts(&status.counts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A view of images, each given as `name state message`.
    fn view(images: &[&str]) -> View {
        let mut view = View::default();
        for image in images {
            let mut parts = image.splitn(3, ' ');
            let [name, state, message] = std::array::from_fn(|_| parts.next().expect("a part"));
            let image = json!({
                "metadata": {"name": format!("f.{name}")},
                "spec": {"family": "f", "image": name},
                "status": {"state": state, "reason": "R", "message": message}
            });
            view.insert_image(serde_json::from_value(image).expect("an image"));
        }
        let family = json!({
            "metadata": {"name": "f", "namespace": "team"},
            "spec": {"repository": "r", "images": []},
            "status": {"counts": {"total": images.len()}}
        });
        view.insert_family(serde_json::from_value(family).expect("a family"));
        view
    }

    #[test]
    fn each_change_is_one_line() {
        let now = "2026-05-01T12:00:00Z".parse().expect("a time");
        let before = view(&["a Queued m", "b Current m", "c Current m"]);
        let after = view(&["a Building two\nlines\u{1b}", "b Current other", "d Queued m"]);
        assert_eq!(
            changes(&before, &after, now).lines().collect::<Vec<_>>(),
            [
                "2026-05-01T12:00:00Z image a: Queued -> Building: R: two lines\\u{1b}",
                "2026-05-01T12:00:00Z image d: Queued: R: m",
                "2026-05-01T12:00:00Z image c: it was deleted",
            ]
        );
        assert_eq!(changes(&after, &after, now), "");
        let gone = changes(&after, &View::default(), now);
        assert!(gone.contains("family team/f: it was deleted"), "{gone}");
        let more = changes(&View::default(), &after, now);
        assert!(more.contains("family team/f: 3; cascades: none\n"), "{more}");
    }
}
