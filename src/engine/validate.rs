//! Checks of a spec that CEL can't express: cycles, tag templates, two images that claim one tag.
//! No cluster is needed.

use std::collections::{BTreeMap, HashMap};

use crate::{
    api::{ImageFamilySpec, condition::Reason},
    engine::{
        Problem,
        blueprint::{Blueprint, repository},
        cascade::windows::Windows,
        option_names::find_invalid_name,
        tags::{self, Tag},
    },
    lineage::{Lineage, LineageError, UpstreamIndex},
};

/// Maximum number of images that the message about a tag names.
const MAX_CLAIMANTS: usize = 3;

/// Returns what follows from a spec.
///
/// # Errors
///
/// Returns the first problem of an invalid spec.
pub fn validate(spec: &ImageFamilySpec) -> Result<Blueprint, Problem> {
    let lineage = Lineage::new(spec).map_err(|error| {
        let reason = match error {
            LineageError::Cycle { .. } => Reason::Cycle,
            LineageError::UnknownParent { .. } => Reason::UnknownParent,
            LineageError::DuplicateName { .. } => Reason::InvalidSpec,
        };
        Problem { reason, message: error.to_string() }
    })?;
    let owners = owners(&claims(spec)?);
    if let Some(problem) = find_self_following_upstream(spec, &lineage, &owners) {
        return Err(problem);
    }
    if let Some(export) = spec
        .exports
        .iter()
        .find(|export| !spec.images.iter().any(|image| image.name == export.image))
    {
        let message = format!(
            "spec.exports names the image `{}`, which the family does not have; correct it",
            export.image
        );
        return Err(Problem { reason: Reason::InvalidSpec, message });
    }
    let invalid = |message: String| Problem { reason: Reason::InvalidSpec, message };
    let policy = &spec.policy;
    if policy.settle > policy.max_settle {
        let message = "spec.policy.settle is longer than spec.policy.maxSettle: shorten one or \
                       lengthen the other";
        return Err(invalid(message.into()));
    }
    if policy.parallelism < 1 {
        return Err(invalid(
            "spec.policy.parallelism is less than 1, so that nothing would ever be built".into(),
        ));
    }
    let windows = Windows::parse(&policy.windows).map_err(|error| invalid(error.to_string()))?;
    let mut blueprint = Blueprint::new(spec, lineage, windows);
    let mut collisions = collisions(&owners);
    for (image, known) in spec.images.iter().zip(&mut blueprint.images) {
        let collision = collisions.remove(image.name.as_str());
        known.problem = collision.or_else(|| find_invalid_name(image));
    }
    Ok(blueprint)
}

/// The images that claim a tag, by the reference of the tag. It has more than one if they collide.
type TagClaimants<'a> = BTreeMap<String, Vec<&'a str>>;

fn owners<'a>(claims: &[TagClaim<'a>]) -> TagClaimants<'a> {
    let mut owners = TagClaimants::new();
    for claim in claims {
        let claimants = owners.entry(claim.reference()).or_default();
        if !claimants.contains(&claim.image) {
            claimants.push(claim.image);
        }
    }
    owners
}

/// Returns the problems of the images whose tags other images claim, too. None of them gets the
/// tag: which one it should be is for a user to say.
fn collisions<'a>(owners: &TagClaimants<'a>) -> HashMap<&'a str, Problem> {
    let mut problems = HashMap::new();
    for (tag, claimants) in owners.iter().filter(|(_, claimants)| claimants.len() > 1) {
        for image in claimants {
            let others = claimants.iter().filter(|other| *other != image).take(MAX_CLAIMANTS);
            let others: Vec<String> = others.map(|other| format!("`{other}`")).collect();
            let message = format!(
                "spec.images[{image}].tags: {tag} is also a tag of {}; give each image its own \
                 tag or `path`",
                others.join(", ")
            );
            let problem = || Problem { reason: Reason::TagCollision, message };
            problems.entry(*image).or_insert_with(problem);
        }
    }
    problems
}

/// Returns the problem of an upstream that follows a tag of an image that is built on it: each
/// build would cause the next.
fn find_self_following_upstream(
    spec: &ImageFamilySpec,
    lineage: &Lineage,
    owners: &TagClaimants<'_>,
) -> Option<Problem> {
    UpstreamIndex::enumerate(&spec.upstreams).find_map(|(index, upstream)| {
        let (tag, claimants) = owners.get_key_value(&upstream.reference())?;
        let image = claimants.first()?;
        let place = spec.images.iter().position(|of| of.name == **image)?;
        let below = lineage.with_descendants(lineage.upstream_children(index).iter().copied());
        let message = format!(
            "spec.upstreams[{}] follows {tag}, a tag of the image `{image}`, which is built on it, \
             so that each build would cause the next; name the image in `from`, or follow another \
             tag",
            upstream.name
        );
        (below.get(place) == Some(&true)).then_some(Problem { reason: Reason::Cycle, message })
    })
}

/// A tag that an image of a family claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagClaim<'a> {
    /// The name of the image.
    pub image: &'a str,
    /// The repository of the image.
    pub repository: String,
    /// The tag. If it names the build, it stands for all numbers.
    pub tag: Tag,
}

impl TagClaim<'_> {
    /// Returns the claim as `repository:tag`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.repository, self.tag.name)
    }
}

/// Returns the tags that a spec claims. A tag that names the build claims all numbers.
///
/// # Errors
///
/// Returns the problem of a tag template that can't be rendered.
pub fn claims(spec: &ImageFamilySpec) -> Result<Vec<TagClaim<'_>>, Problem> {
    let mut claims = Vec::new();
    for image in &spec.images {
        let tags = tags::claimed(spec, image).map_err(|error| {
            let message = format!("spec.images[{}].tags: {error}", image.name);
            Problem { reason: Reason::InvalidTagTemplate, message }
        })?;
        let repository = repository(spec, image);
        claims.extend(tags.into_iter().map(|tag| TagClaim {
            image: &image.name,
            repository: repository.clone(),
            tag,
        }));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Edge, Image, Upstream};

    fn image(name: &str, path: Option<&str>, tag: &str) -> Image {
        Image {
            name: name.into(),
            path: path.map(str::to_owned),
            from: vec![Edge { upstream: Some("alpine".into()), ..Edge::default() }],
            tags: vec![tag.into()],
            ..Image::default()
        }
    }

    fn spec(images: [Image; 2]) -> ImageFamilySpec {
        ImageFamilySpec {
            repository: "registry.example.com/platform".into(),
            upstreams: vec![Upstream { name: "alpine".into(), ..Upstream::default() }],
            images: images.into(),
            ..ImageFamilySpec::default()
        }
    }

    #[test]
    fn one_tag_has_one_owner() {
        assert!(validate(&spec([image("a", None, "latest"), image("b", None, "latest")])).is_ok());
        assert!(validate(&spec([image("a", None, "1"), image("b", Some("a"), "2")])).is_ok());
    }

    #[test]
    fn tags_from_labels_do_not_collide_before_a_build() {
        let label = "{{ label.version }}";
        let images = [image("a", None, label), image("b", Some("a"), label)];
        let blueprint = validate(&spec(images)).expect("a valid family");
        assert!(blueprint.images.iter().all(|image| image.problem.is_none()));
        assert!(blueprint.images.iter().all(|image| image.labels == ["version"]));
    }

    #[test]
    fn a_collision_concerns_the_images_that_claim_the_tag() {
        let mut spec =
            spec([image("a", None, "r{{ build }}"), image("b", Some("a"), "r{{ build }}")]);
        spec.images.push(image("c", None, "latest"));
        let blueprint = validate(&spec).expect("a valid family");
        let problems: Vec<_> =
            blueprint.images.iter().map(|image| image.problem.as_ref()).collect();
        for (index, other) in [(0, "a tag of `b`"), (1, "a tag of `a`")] {
            let problem = problems[index].expect("a collision");
            assert_eq!(problem.reason, Reason::TagCollision);
            for part in ["registry.example.com/platform/a:r0", other] {
                assert!(problem.message.contains(part), "{}", problem.message);
            }
        }
        assert_eq!(problems[2], None);
    }

    #[test]
    fn an_upstream_that_follows_its_own_descendant_is_refused() {
        let following = |followed: &str, tag: &str| {
            let mut spec = spec([image("a", None, "latest"), image("b", None, "latest")]);
            spec.images[1].from = vec![Edge { image: Some("a".into()), ..Edge::default() }];
            let own = Upstream {
                name: "own".into(),
                image: format!("registry.example.com/platform/{followed}"),
                follow: crate::api::Follow { tag: tag.into() },
                ..Upstream::default()
            };
            spec.upstreams.push(own);
            spec.images[1].from.push(Edge { upstream: Some("own".into()), ..Edge::default() });
            validate(&spec)
        };
        let problem = following("b", "latest").expect_err("a circle");
        assert_eq!(problem.reason, Reason::Cycle);
        assert!(
            problem.message.contains("registry.example.com/platform/b:latest"),
            "{}",
            problem.message
        );
        assert!(following("b", "seed").is_ok(), "somebody else's tag");
        assert!(following("a", "latest").is_ok(), "it is not built on it");
    }

    #[test]
    fn an_unknown_variable_names_the_image() {
        let problem = validate(&spec([image("a", None, "{{ vers }}"), image("b", None, "latest")]))
            .expect_err("unknown");
        assert_eq!(problem.reason, Reason::InvalidTagTemplate);
        assert!(
            problem.message.starts_with("spec.images[a].tags: `{{ vers }}`"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn a_window_that_never_opens_is_rejected_at_once() {
        let mut spec = spec([image("a", None, "latest"), image("b", None, "1")]);
        let window = |schedule: &str| crate::api::Window {
            schedule: schedule.into(),
            duration: crate::api::Duration::from_secs(3600),
            time_zone: "UTC".into(),
        };
        spec.policy.windows = vec![window("0 22 * * *"), window("0 22 30 2 *")];
        let problem = validate(&spec).expect_err("the 30th of February");
        assert_eq!(problem.reason, Reason::InvalidSpec);
        assert!(problem.message.contains("windows[1]"), "{}", problem.message);
        spec.policy.windows.pop();
        assert!(validate(&spec).is_ok());
    }
}
