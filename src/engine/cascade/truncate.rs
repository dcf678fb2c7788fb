//! Truncation: what the status of a cascade leaves out when it would grow too large for the API
//! server.
//!
//! An object may have at most 1.5 MiB, and a cascade may have a thousand images, each with a
//! sentence and with causes down to the upstreams. When they exceed the limit, the causes are left
//! out first, starting with the images that finished first, and then the sentences in the same
//! order. Nothing is lost: the `ManagedImage` of each image has both.

use crate::api::{CascadeStatus, Cause, ImageResult};

/// Upper bound on the bytes of the status: together with the causes in the spec (at most 100 KB)
/// half of what the API server accepts.
const MAX_STATUS_BYTES: usize = 660 * 1024;
/// Upper bound on the bytes of a result without its name and texts, including its entry in
/// `managedFields`.
const RESULT_BYTES: usize = 520;
/// How often the object contains the name of a result: in the result, in `managedFields`, in the
/// plan, and in the critical path.
const NAME_OCCURRENCES: usize = 4;
/// Upper bound on the bytes of a cause without its values.
const CAUSE_BYTES: usize = 70;
/// Upper bound on the bytes that surround a sentence, or an entry of `via`.
const QUOTE_BYTES: usize = 12;

/// Leaves out texts until the status is below the limit, and says in `note` how many.
pub(in crate::engine) fn truncate_status(status: &mut CascadeStatus) {
    let mut bytes: usize = status
        .images
        .iter()
        .map(|image| RESULT_BYTES + NAME_OCCURRENCES * image.name.len() + text_bytes(image))
        .sum();
    if bytes > MAX_STATUS_BYTES {
        let mut order: Vec<usize> = (0..status.images.len()).collect();
        order.sort_by_key(|index| {
            let finished = status.images.get(*index).and_then(|image| image.finished_at);
            (finished.is_none(), finished, *index)
        });
        for clears_sentence in [false, true] {
            for index in &order {
                let Some(image) =
                    status.images.get_mut(*index).filter(|_| bytes > MAX_STATUS_BYTES)
                else {
                    break;
                };
                let before = text_bytes(image);
                image.causes.clear();
                if clears_sentence {
                    image.message.clear();
                }
                let after = text_bytes(image);
                image.shortened |= after < before;
                bytes = bytes - before + after;
            }
        }
    }
    status.omitted = truncation_note(&status.images);
}

/// Says how many images are shortened; empty if none is.
fn truncation_note(images: &[ImageResult]) -> String {
    let shortened = images.iter().filter(|image| image.shortened);
    let (causes, sentences) = shortened
        .fold((0, 0), |(all, bare), image| (all + 1, bare + usize::from(image.message.is_empty())));
    match (causes, sentences) {
        (0, _) => String::new(),
        (causes, 0) => format!(
            "the causes of {causes} images are omitted to keep this object below the size limit; \
             see their ManagedImages"
        ),
        (causes, sentences) => format!(
            "the causes of {causes} images, and the sentences of {sentences} of them, are omitted \
             to keep this object below the size limit; see their ManagedImages"
        ),
    }
}

/// Returns an upper bound on the bytes of an image's sentence and causes.
fn text_bytes(image: &ImageResult) -> usize {
    let message = if image.message.is_empty() { 0 } else { QUOTE_BYTES + image.message.len() };
    message + image.causes.iter().map(cause_bytes).sum::<usize>()
}

fn cause_bytes(cause: &Cause) -> usize {
    let via: usize = cause.via.iter().map(|name| QUOTE_BYTES + name.len()).sum();
    let commits: usize = cause.commits.iter().map(|commit| QUOTE_BYTES + commit.len()).sum();
    CAUSE_BYTES + cause.name.len() + cause.from.len() + cause.to.len() + via + commits
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{
        CascadeSpec, CauseType, ImageState, cascade::MAX_CAUSES, managed_image::MAX_BUILD_CAUSES,
    };
    use crate::identity::MAX_CAUSING_COMMITS;

    /// The largest request that etcd accepts, in bytes.
    const MAX_ETCD_REQUEST: usize = 1536 * 1024;

    fn name(index: usize, length: usize) -> String {
        format!("{index:0>length$}")
    }

    fn causes(length: usize, count: usize) -> Vec<Cause> {
        let cause = Cause {
            type_: CauseType::Strategy,
            name: name(0, 3 * length),
            from: name(0, 71),
            to: name(0, 71),
            via: vec![name(0, length); 16],
            commits: vec![name(0, 40); MAX_CAUSING_COMMITS],
            more_commits: true,
        };
        vec![cause; count]
    }

    /// Returns a cascade of a thousand images with the longest possible texts. Every second image
    /// is finished.
    fn cascade(length: usize) -> CascadeStatus {
        let result = |index: usize| ImageResult {
            name: name(index, length),
            state: ImageState::Building,
            builds: 10,
            build: Some(1_000_000),
            digest: Some(name(0, 71)),
            own_inputs: Some(name(0, 16)),
            started_at: Some(Timestamp::MAX),
            finished_at: index.is_multiple_of(2).then(|| {
                Timestamp::from_second(2_000_000_000 - i64::try_from(index).expect("small"))
                    .expect("a time")
            }),
            message: "w".repeat(300),
            causes: causes(length, MAX_BUILD_CAUSES),
            spared: true,
            shortened: false,
        };
        let images: Vec<ImageResult> = (0..1000).map(result).collect();
        let critical_path = images.iter().map(|image| image.name.clone()).collect();
        CascadeStatus { images, critical_path, ..CascadeStatus::default() }
    }

    /// Returns the size in bytes of the whole object, including `managedFields`.
    fn size(status: &CascadeStatus) -> usize {
        let levels = vec![status.images.iter().map(|image| image.name.clone()).collect()];
        let spec = CascadeSpec { causes: causes(63, MAX_CAUSES), levels, ..CascadeSpec::default() };
        let rows: serde_json::Map<String, serde_json::Value> = status
            .images
            .iter()
            .map(|image| {
                let row = serde_json::to_value(image).expect("JSON");
                let fields =
                    row.as_object().expect("an object").keys().map(|field| format!("f:{field}"));
                let fields: serde_json::Map<String, serde_json::Value> = fields
                    .chain([".".to_owned()])
                    .map(|field| (field, serde_json::json!({})))
                    .collect();
                (format!("k:{{\"name\":\"{}\"}}", image.name), fields.into())
            })
            .collect();
        let length = |json: Result<String, serde_json::Error>| json.expect("JSON").len();
        length(serde_json::to_string(&spec))
            + length(serde_json::to_string(status))
            + length(serde_json::to_string(&rows))
    }

    #[test]
    fn a_cascade_of_a_thousand_images_with_the_longest_texts_fits() {
        for (length, limit) in
            [(10, MAX_ETCD_REQUEST / 2), (20, MAX_ETCD_REQUEST / 2), (63, MAX_ETCD_REQUEST * 3 / 5)]
        {
            let mut status = cascade(length);
            assert!(size(&status) > 2 * MAX_ETCD_REQUEST, "{}", size(&status));
            truncate_status(&mut status);
            assert!(size(&status) < limit, "{length}: {}", size(&status));
            assert_eq!(status.images.len(), 1000);
            assert!(status.omitted.contains("the causes of 1000 images"), "{}", status.omitted);
            let again = status.clone();
            truncate_status(&mut status);
            assert_eq!(status, again, "truncating twice changes nothing");
        }
    }

    #[test]
    fn the_texts_of_images_that_finished_first_are_omitted_first() {
        let mut status = cascade(20);
        for image in &mut status.images {
            image.causes.truncate(1);
            image.message.truncate(60);
        }
        truncate_status(&mut status);
        assert!(status.images.iter().all(|image| image.message.len() == 60), "the sentences fit");
        assert!(status.images.iter().all(|image| image.shortened == image.causes.is_empty()));
        let omitted: Vec<usize> =
            (0..1000).filter(|index| status.images[*index].shortened).collect();
        assert!(omitted.len() > 100 && omitted.len() < 1000, "{}", omitted.len());
        // The last one of the even images finished first.
        assert!(omitted.contains(&998), "{omitted:?}");
        assert!(!omitted.contains(&999), "{omitted:?}");
        assert!(
            status
                .omitted
                .starts_with(&format!("the causes of {} images are omitted", omitted.len()))
        );
    }

    #[test]
    fn a_cascade_below_the_limit_keeps_all_texts() {
        let mut status = cascade(20);
        status.images.truncate(40);
        let before = status.clone();
        truncate_status(&mut status);
        assert_eq!(status, before);
        assert!(status.omitted.is_empty());
    }
}
