//! The reconcilers, and what they share.
//!
//! - [`family`]: the reconciler of an `ImageFamily`: observe, decide, act, record
//! - [`rollout`]: the reconciler of a `ManagedImage`: its rollouts
//! - [`run`]: runs both; [`triggers`]: which changes trigger which families; [`watch`]: the watches
//! - [`context`]: what every reconcile shares; [`stores`], [`object_cache`]: the objects of the
//!   cluster; [`reconcile_cache`]: what is kept of each family between two reconciles
//! - [`quota`]: the operator's limits of concurrent builds, which all families share
//! - [`job_seals`]: which Jobs are ours
//! - [`deferred_jobs`]: Jobs that are not admitted now, and when they are created again
//! - [`deferred_statuses`]: statuses of images that are not written yet
//! - [`deferred_triggers`]: families that are to be reconciled soon
//! - [`record_schedule`]: when the records of current builds are written
//! - [`check_images`]: the digests of the images that checks run in, as registries have answered
//! - [`dependents`], [`rollouts`], [`tag_owners`]: indexes over families and images
//! - [`folder_poller`], [`git_poll`]: when and how folders of Git repositories are polled
//! - [`stray_requests`]: answers requests whose family does not exist
//! - [`event_queue`]: Events that wait to be published
//! - [`backoff`], [`error`], [`writes`]: failures, calls and writes that both reconcilers share

pub mod backoff;
pub mod check_images;
pub mod context;
pub mod deferred_jobs;
pub mod deferred_statuses;
pub mod deferred_triggers;
pub mod dependents;
pub mod error;
pub mod event_queue;
pub mod family;
pub mod folder_poller;
pub mod git_poll;
pub mod installations;
pub mod job_seals;
pub mod object_cache;
pub mod quota;
pub mod reconcile_cache;
pub mod reconcile_shares;
pub mod record_schedule;
pub mod repository_rules;
pub mod resource_quotas;
pub mod rollout;
pub mod rollouts;
pub mod run;
pub mod served;
pub mod stores;
pub mod stray_requests;
pub mod tag_owners;
pub mod triggers;
pub mod watch;
pub mod writes;
