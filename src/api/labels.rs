//! Names of labels, annotations, finalizers and field owners that Groundswell writes or reads.

/// Label on Jobs, Pods and `ManagedImage`s: the family's name.
pub const FAMILY: &str = "groundswell.dev/family";
/// Label on Jobs, Pods and `ManagedImage`s: the image's name in its family.
pub const IMAGE: &str = "groundswell.dev/image";
/// Label on Jobs and Pods: the fingerprint that the build makes.
pub const FINGERPRINT: &str = "groundswell.dev/fingerprint";
/// Label on Jobs and Pods: which attempt at the fingerprint, or at the check, this is, from 0.
pub const ATTEMPT: &str = "groundswell.dev/attempt";
/// Label on Jobs and Pods: the `Cascade` for which the build was started.
pub const CASCADE: &str = "groundswell.dev/cascade";
/// Label with the fixed value [`MANAGED_BY_VALUE`] on everything that we create, so that caches
/// hold nothing else.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "groundswell";
/// Label on Jobs and Pods: what they are for, [`COMPONENT_BUILD`] or [`COMPONENT_CHECK`].
pub const COMPONENT: &str = "groundswell.dev/component";
/// The value of [`COMPONENT`] on builds.
pub const COMPONENT_BUILD: &str = "build";
/// The value of [`COMPONENT`] on checks.
pub const COMPONENT_CHECK: &str = "check";
/// Label on Jobs and Pods of checks: the check's name.
pub const CHECK: &str = "groundswell.dev/check";
/// Label on Jobs and Pods of checks: hash of what the spec said of the check.
pub const CHECK_REVISION: &str = "groundswell.dev/check-revision";
/// Annotation on Jobs of checks: the digest that is checked.
pub const CHECKED_DIGEST: &str = "groundswell.dev/checked-digest";
/// Annotation on Jobs: the build's number, counted per image from 1.
pub const BUILD: &str = "groundswell.dev/build";

/// Annotation on an `ImageFamily` or a `ManagedImage`: what a person asks for, as JSON; see
/// [`crate::api::request`].
pub const REQUEST: &str = "groundswell.dev/request";
/// Annotation on Jobs: hash of what the image itself gave to the build, without its parents.
pub const OWN_INPUTS: &str = "groundswell.dev/own-inputs";
/// Annotation on Jobs: `true` if the image itself changed or a person asked, rather than something
/// below it.
pub const USER_CAUSED: &str = "groundswell.dev/user-caused";
/// Annotation on Jobs: the references of the upstreams that caused the build, comma separated.
pub const UPSTREAMS: &str = "groundswell.dev/upstreams";

/// Annotation on a Git credential Secret: the hosts, comma separated, that may be sent the
/// credential. Without it the Secret is sent nowhere, so that naming somebody's Secret cannot leak
/// it.
pub const CREDENTIAL_HOSTS: &str = "groundswell.dev/hosts";
/// Annotation on a Namespace: the namespaces, comma separated (or `*`), whose families may roll out
/// its workloads.
pub const ROLLOUT_FROM: &str = "groundswell.dev/rollout-from";
/// Annotation on a workload's pod template in `Restart` mode: the digest that it was last restarted
/// for.
pub const ROLLED_OUT: &str = "groundswell.dev/digest";

/// OCI annotation on every image we build: its fingerprint.
pub const OCI_FINGERPRINT: &str = "dev.groundswell.fingerprint";
/// OCI annotation on every image we build: its build number.
pub const OCI_BUILD: &str = "dev.groundswell.build";

/// Field owner of what the controller applies.
pub const FIELD_OWNER: &str = "groundswell";
/// Field owner of what a rollout applies to somebody's workload.
pub const ROLLOUT_FIELD_OWNER: &str = "groundswell/rollout";
