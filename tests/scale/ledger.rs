//! Every build that ever was in a namespace, as a watch told it: a Job that is gone at the end
//! counts all the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Instant,
};

use futures::StreamExt;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::task::JoinHandle;

use super::support::{family::label, objects::Place};

/// The pods of a Job carry its unique id under this name.
const OF_JOB: &str = "batch.kubernetes.io/controller-uid";

/// A build.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its image.
    pub image: String,
    /// The fingerprint that it makes.
    pub fingerprint: String,
    /// Which attempt at it.
    pub attempt: String,
    /// When its Job was first seen.
    pub made: Instant,
    /// When a pod of it was first seen to have succeeded.
    pub succeeded: Option<Instant>,
    /// Its Job, as it was made.
    pub job: Job,
}

/// Keeps the books of one namespace until it is dropped.
pub struct Ledger {
    books: Arc<Mutex<Books>>,
    work: [JoinHandle<()>; 2],
}

/// By the Job's unique id. The two watches run apart, and a pod may be told of before its Job.
#[derive(Debug, Default)]
struct Books {
    made: HashMap<String, Build>,
    succeeded: HashMap<String, Instant>,
}

impl Ledger {
    /// Begins.
    pub fn open(place: &Place) -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        let (of_jobs, of_pods) = (Arc::clone(&books), Arc::clone(&books));
        let jobs = watcher(place.api::<Job>(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let pods = watcher(place.api::<Pod>(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let jobs = tokio::spawn(jobs.filter_map(async |job| job.ok()).for_each(move |job| {
            of_jobs.lock().expect("the books").enter(job);
            std::future::ready(())
        }));
        let pods = tokio::spawn(pods.filter_map(async |pod| pod.ok()).for_each(move |pod| {
            of_pods.lock().expect("the books").note_end(&pod);
            std::future::ready(())
        }));
        Self { books, work: [jobs, pods] }
    }

    /// The builds so far, in the order in which their Jobs were seen.
    pub fn builds(&self) -> Vec<Build> {
        let books = self.books.lock().expect("the books");
        let build = |(uid, build): (&String, &Build)| Build {
            succeeded: books.succeeded.get(uid).copied(),
            ..build.clone()
        };
        let mut builds: Vec<Build> = books.made.iter().map(build).collect();
        builds.sort_by_key(|build| build.made);
        builds
    }

    /// How many Jobs were made so far, and of how many a pod has succeeded.
    pub fn count(&self) -> (usize, usize) {
        let books = self.books.lock().expect("the books");
        (books.made.len(), books.succeeded.len())
    }

    /// Fails unless every image has `cascades` builds, each of another fingerprint, and each made
    /// at the first attempt.
    pub fn assert_once(&self, images: usize, cascades: usize) {
        let mut jobs: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut builds: BTreeMap<String, usize> = BTreeMap::new();
        for build in self.builds() {
            *builds.entry(build.image.clone()).or_default() += 1;
            jobs.entry((build.image, build.fingerprint)).or_default().push(build.attempt);
        }
        let more: Vec<_> = jobs.iter().filter(|(_, attempts)| **attempts != ["0"]).collect();
        assert!(
            more.is_empty(),
            "built more than once for one fingerprint, with the attempts: \
                                  {more:#?}"
        );
        let odd: Vec<_> = builds.iter().filter(|(_, count)| **count != cascades).collect();
        assert!(odd.is_empty(), "built another number of times than {cascades}: {odd:#?}");
        assert_eq!(builds.len(), images, "images built");
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        for work in &self.work {
            work.abort();
        }
    }
}

impl Books {
    fn enter(&mut self, job: Job) {
        self.made.entry(job.uid().unwrap_or_default()).or_insert_with(|| Build {
            image: label(&job, "groundswell.dev/image"),
            fingerprint: label(&job, "groundswell.dev/fingerprint"),
            attempt: label(&job, "groundswell.dev/attempt"),
            made: Instant::now(),
            succeeded: None,
            job,
        });
    }

    fn note_end(&mut self, pod: &Pod) {
        let succeeded =
            pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
        if let Some(job) = pod.labels().get(OF_JOB).filter(|_| succeeded) {
            self.succeeded.entry(job.clone()).or_insert_with(Instant::now);
        }
    }
}
