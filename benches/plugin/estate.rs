//! Generated families: each image is built on one of the images before it, and each family on one
//! upstream.

use std::fmt::Write as _;

/// The upstream of all families.
pub const UPSTREAM: &str = "docker.io/library/debian:trixie-slim";
/// The number of images of a family: as many as the API allows.
const FAMILY: usize = 1_000;
/// The number of images that are built on one image.
const CHILDREN: usize = 5;

/// Returns the manifests of families with this number of images in all.
pub fn manifests(images: usize) -> String {
    let mut text = String::new();
    for family in 0..images / FAMILY {
        write!(
            text,
            "---
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {{name: family-{family}}}
spec:
  repository: registry.example.com/family-{family}
  upstreams:
  - {{name: debian, image: docker.io/library/debian, follow: {{tag: trixie-slim}}}}
  images:
"
        )
        .expect("a text");
        for image in 0..FAMILY {
            let (edge, base) = match image.checked_sub(CHILDREN) {
                None => ("upstream: debian".to_owned(), "debian:trixie-slim".to_owned()),
                Some(above) => {
                    let base = format!("image-{}", above / CHILDREN);
                    (format!("image: {base}"), base)
                }
            };
            writeln!(
                text,
                "  - {{name: image-{image}, from: [{{{edge}, as: '{base}'}}], tags: [latest], \
                 source: {{inline: \"FROM {base}\\n\"}}}}"
            )
            .expect("a text");
        }
    }
    text
}
