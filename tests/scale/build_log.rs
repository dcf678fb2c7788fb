//! Records every build of a namespace from a watch. A Job that is deleted before the end of the
//! test still counts.

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

/// The label on a pod with the uid of its Job.
const JOB_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

/// One build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The name of the image.
    pub image: String,
    /// The fingerprint that it builds.
    pub fingerprint: String,
    /// The attempt at the fingerprint.
    pub attempt: String,
    /// When its Job was first observed.
    pub made: Instant,
    /// When a pod of it was first observed to have succeeded.
    pub succeeded: Option<Instant>,
    /// Its Job, as it was created.
    pub job: Job,
}

/// Records the builds of one namespace until it is dropped.
pub struct BuildLog {
    records: Arc<Mutex<Records>>,
    work: [JoinHandle<()>; 2],
}

/// What was observed, by the uid of the Job. The two watches are independent, so that a pod may be
/// observed before its Job.
#[derive(Debug, Default)]
struct Records {
    made: HashMap<String, Build>,
    succeeded: HashMap<String, Instant>,
}

impl BuildLog {
    /// Starts to watch a namespace.
    pub fn open(place: &Place) -> Self {
        let records = Arc::new(Mutex::new(Records::default()));
        let (of_jobs, of_pods) = (Arc::clone(&records), Arc::clone(&records));
        let jobs = watcher(place.api::<Job>(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let pods = watcher(place.api::<Pod>(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let jobs = tokio::spawn(jobs.filter_map(async |job| job.ok()).for_each(move |job| {
            of_jobs.lock().expect("the records").add_job(job);
            std::future::ready(())
        }));
        let pods = tokio::spawn(pods.filter_map(async |pod| pod.ok()).for_each(move |pod| {
            of_pods.lock().expect("the records").add_pod(&pod);
            std::future::ready(())
        }));
        Self { records, work: [jobs, pods] }
    }

    /// Returns the builds so far, in the order in which their Jobs were observed.
    pub fn builds(&self) -> Vec<Build> {
        let records = self.records.lock().expect("the records");
        let build = |(uid, build): (&String, &Build)| Build {
            succeeded: records.succeeded.get(uid).copied(),
            ..build.clone()
        };
        let mut builds: Vec<Build> = records.made.iter().map(build).collect();
        builds.sort_by_key(|build| build.made);
        builds
    }

    /// Returns how many Jobs were created so far, and how many of them have a succeeded pod.
    pub fn count(&self) -> (usize, usize) {
        let records = self.records.lock().expect("the records");
        (records.made.len(), records.succeeded.len())
    }

    /// Asserts that every image has `cascades` builds, each of another fingerprint and each at the
    /// first attempt.
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
            "built more than once for one fingerprint, with the attempts: {more:#?}"
        );
        let odd: Vec<_> = builds.iter().filter(|(_, count)| **count != cascades).collect();
        assert!(odd.is_empty(), "built another number of times than {cascades}: {odd:#?}");
        assert_eq!(builds.len(), images, "images built");
    }
}

impl Drop for BuildLog {
    fn drop(&mut self) {
        for work in &self.work {
            work.abort();
        }
    }
}

impl Records {
    fn add_job(&mut self, job: Job) {
        self.made.entry(job.uid().unwrap_or_default()).or_insert_with(|| Build {
            image: label(&job, "groundswell.dev/image"),
            fingerprint: label(&job, "groundswell.dev/fingerprint"),
            attempt: label(&job, "groundswell.dev/attempt"),
            made: Instant::now(),
            succeeded: None,
            job,
        });
    }

    fn add_pod(&mut self, pod: &Pod) {
        let succeeded =
            pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded");
        if let Some(job) = pod.labels().get(JOB_UID_LABEL).filter(|_| succeeded) {
            self.succeeded.entry(job.clone()).or_insert_with(Instant::now);
        }
    }
}
