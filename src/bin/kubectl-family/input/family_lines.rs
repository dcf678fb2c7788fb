//! The line of a manifest that declares an image or an upstream.

use crate::input::{EstateFamily, objects::Place};

impl EstateFamily {
    /// Returns the file and the line that declare an image or an upstream; `None` in a cluster.
    pub fn manifest_line(&self, name: &str) -> Option<(String, u64)> {
        let Place::File(place) = &self.place else { return None };
        let is_written = |written: &String| {
            let rest = name.strip_prefix(written.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let upstreams = &self.family.spec.upstreams;
        let image = self.written.iter().position(|written| written == name);
        let upstream = upstreams.iter().position(|upstream| upstream.name == name);
        let pointer = match (image, upstream, self.written.iter().position(is_written)) {
            (Some(image), _, _) | (None, None, Some(image)) => format!("/spec/images/{image}"),
            (None, Some(upstream), _) => format!("/spec/upstreams/{upstream}"),
            (None, None, None) => "/spec".to_owned(),
        };
        Some(place.line(&pointer))
    }
}
