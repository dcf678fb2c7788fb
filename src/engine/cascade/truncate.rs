//! The size of a cascade's record: what is left out of one that would grow too large for the API
//! server.
//!
//! An object has at most 1.5 MiB, and a cascade may have a thousand images, each with a sentence
//! and with causes down to the upstreams. When there are more of them than there is room for, the
//! causes of the images go that were finished first, and then the sentences, in the same order.
//! Nothing is lost with them: each image's own record has both.

use crate::api::{CascadeStatus, Cause, ImageResult};

/// How many bytes a record may have, beside the causes in its spec (at most 100 KB): half of what
/// the API server takes.
const ROOM: usize = 660 * 1024;
/// What a result has at most beside its name and its texts, here and in the API server's note of
/// who wrote it (`managedFields`).
const RESULT: usize = 520;
/// How often a result's name stands in the record: in it, in that note, in the plan, and in the
/// critical path.
const NAMES: usize = 4;
/// What a cause has at most beside its values.
const CAUSE: usize = 70;
/// The same of a name among those that it came through, and of a sentence.
const QUOTED: usize = 12;

/// Leaves out texts until the record has room, and notes how many.
pub(in crate::engine) fn abridge(status: &mut CascadeStatus) {
    let mut bytes: usize =
        status.images.iter().map(|image| RESULT + NAMES * image.name.len() + texts(image)).sum();
    if bytes > ROOM {
        let mut order: Vec<usize> = (0..status.images.len()).collect();
        order.sort_by_key(|index| {
            let finished = status.images.get(*index).and_then(|image| image.finished_at);
            (finished.is_none(), finished, *index)
        });
        for sentence_too in [false, true] {
            for index in &order {
                let Some(image) = status.images.get_mut(*index).filter(|_| bytes > ROOM) else {
                    break;
                };
                let before = texts(image);
                image.causes.clear();
                if sentence_too {
                    image.why.clear();
                }
                let after = texts(image);
                image.shortened |= after < before;
                bytes = bytes - before + after;
            }
        }
    }
    let shortened = status.images.iter().filter(|image| image.shortened);
    let (causes, sentences) = shortened
        .fold((0, 0), |(all, bare), image| (all + 1, bare + usize::from(image.why.is_empty())));
    status.note = match (causes, sentences) {
        (0, _) => String::new(),
        (causes, 0) => {
            format!(
                "the causes of {causes} images are left out for want of room; their \
                     ManagedImages have them"
            )
        }
        (causes, sentences) => format!(
            "the causes of {causes} images, and the sentences of {sentences} of them, are left out \
             for want of room; their ManagedImages have both"
        ),
    };
}

/// How many bytes the sentence and the causes of an image have at most.
fn texts(image: &ImageResult) -> usize {
    let why = if image.why.is_empty() { 0 } else { QUOTED + image.why.len() };
    why + image.causes.iter().map(of_cause).sum::<usize>()
}

fn of_cause(cause: &Cause) -> usize {
    let via: usize = cause.via.iter().map(|name| QUOTED + name.len()).sum();
    CAUSE + cause.name.len() + cause.from.len() + cause.to.len() + via
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{
        CascadeSpec, CauseType, ImageState, cascade::MAX_CAUSES, managed_image::MAX_BUILD_CAUSES,
    };

    /// What etcd takes in one request.
    const ETCD: usize = 1536 * 1024;

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
        };
        vec![cause; count]
    }

    /// A cascade of a thousand images, of which every second one is finished, with the longest
    /// texts there are.
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
            why: "w".repeat(300),
            causes: causes(length, MAX_BUILD_CAUSES),
            spared: true,
            shortened: false,
        };
        let images: Vec<ImageResult> = (0..1000).map(result).collect();
        let critical_path = images.iter().map(|image| image.name.clone()).collect();
        CascadeStatus { images, critical_path, ..CascadeStatus::default() }
    }

    /// The size of a whole record, with what the API server notes of who wrote it.
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
    fn a_cascade_of_a_thousand_images_with_the_longest_texts_has_room() {
        for (length, most) in [(10, ETCD / 2), (20, ETCD / 2), (63, ETCD * 3 / 5)] {
            let mut status = cascade(length);
            assert!(size(&status) > 2 * ETCD, "{}", size(&status));
            abridge(&mut status);
            assert!(size(&status) < most, "{length}: {}", size(&status));
            assert_eq!(status.images.len(), 1000);
            assert!(status.note.contains("the causes of 1000 images"), "{}", status.note);
            let again = status.clone();
            abridge(&mut status);
            assert_eq!(status, again, "and stays so");
        }
    }

    #[test]
    fn the_texts_of_what_was_finished_first_go_first() {
        let mut status = cascade(20);
        for image in &mut status.images {
            image.causes.truncate(1);
            image.why.truncate(60);
        }
        abridge(&mut status);
        assert!(status.images.iter().all(|image| image.why.len() == 60), "the sentences have room");
        assert!(status.images.iter().all(|image| image.shortened == image.causes.is_empty()));
        let left_out: Vec<usize> =
            (0..1000).filter(|index| status.images[*index].shortened).collect();
        assert!(left_out.len() > 100 && left_out.len() < 1000, "{}", left_out.len());
        // The last one of the even images was finished first.
        assert!(left_out.contains(&998), "{left_out:?}");
        assert!(!left_out.contains(&999), "{left_out:?}");
        assert!(
            status
                .note
                .starts_with(&format!("the causes of {} images are left out", left_out.len()))
        );
    }

    #[test]
    fn a_cascade_that_has_room_keeps_everything() {
        let mut status = cascade(20);
        status.images.truncate(40);
        let before = status.clone();
        abridge(&mut status);
        assert_eq!(status, before);
        assert!(status.note.is_empty());
    }
}
