//! Families and their templates; see [`crate::fuzz`].

use std::str;

use minijinja::Value;

use crate::{
    api::ImageFamilySpec,
    engine::{
        expansion::{MAX_IMAGES, expand},
        templates::Templates,
        validate::{claims, validate},
    },
};

/// A family's spec as JSON.
pub fn family(input: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<ImageFamilySpec>(input) else { return };
    let plain = expand(spec);
    assert!(plain.images.len() <= MAX_IMAGES, "{} images", plain.images.len());
    if let Ok(blueprint) = validate(&plain) {
        assert_eq!(blueprint.lineage.order().len(), plain.images.len());
        assert!(claims(&plain).is_ok(), "a valid spec has valid tags");
    }
}

/// A template: its first line is the value of `version`, and the rest is the template.
pub fn template(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let (version, template) = text.split_once('\n').unwrap_or(("", text));
    let values = Value::from_pairs([("version", version)]);
    let rendered = Templates::default().render(template, &values);
    if !Templates::is_template(template) {
        assert_eq!(rendered.map(|rendered| rendered.text).as_deref(), Ok(template));
    }
}
