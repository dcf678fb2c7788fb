//! Names of labels, annotations, finalizers and field owners that Groundswell writes or reads.

/// Prefix of the labels and annotations of objects that Groundswell writes or reads.
pub const PREFIX: &str = "groundswell.dev/";

/// Label on Jobs, Pods and `ManagedImage`s: name of the family.
pub const FAMILY: &str = "groundswell.dev/family";
/// Label on Jobs, Pods and `ManagedImage`s: name of the image within its family.
pub const IMAGE: &str = "groundswell.dev/image";
/// Label on Jobs and Pods: fingerprint that the build produces.
pub const FINGERPRINT: &str = "groundswell.dev/fingerprint";
/// Label on Jobs and Pods: number of the attempt at the fingerprint or at the check, from 0.
pub const ATTEMPT: &str = "groundswell.dev/attempt";
/// Label on Jobs and Pods: name of the `Cascade` that started the build.
pub const CASCADE: &str = "groundswell.dev/cascade";
/// Label with the fixed value [`MANAGED_BY_VALUE`] on everything that Groundswell creates. Caches
/// select by it, so that they hold nothing else.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "groundswell";
/// Label on Jobs and Pods: their purpose, [`COMPONENT_BUILD`] or [`COMPONENT_CHECK`].
pub const COMPONENT: &str = "groundswell.dev/component";
/// Value of [`COMPONENT`] on builds.
pub const COMPONENT_BUILD: &str = "build";
/// Value of [`COMPONENT`] on checks.
pub const COMPONENT_CHECK: &str = "check";
/// Label on Jobs and Pods of checks: name of the check.
pub const CHECK: &str = "groundswell.dev/check";
/// Label on Jobs and Pods of checks: hash of the check's spec.
pub const CHECK_REVISION: &str = "groundswell.dev/check-revision";
/// Annotation on Jobs of checks: digest that is checked.
pub const CHECKED_DIGEST: &str = "groundswell.dev/checked-digest";
/// Annotation on Jobs of checks: image that the check runs in, with its digest, if that is not the
/// new image.
pub const CHECK_IMAGE: &str = "groundswell.dev/check-image";
/// Annotation on Jobs: number of the build, counted per image from 1.
pub const BUILD: &str = "groundswell.dev/build";

/// Annotation on Jobs: seal over the Job's name, owner, labels, annotations and own containers,
/// which only the controller can make.
pub const SEAL: &str = "groundswell.dev/seal";
/// Annotation on Jobs: hash of the image's own inputs to the build, without its parents.
pub const OWN_INPUTS: &str = "groundswell.dev/own-inputs";
/// Annotation on Jobs: `true` if the build was caused by a change of the image itself or by a
/// request, rather than by a parent.
pub const USER_CAUSED: &str = "groundswell.dev/user-caused";
/// Annotation on Jobs: references of the upstreams that caused the build, comma separated.
pub const UPSTREAMS: &str = "groundswell.dev/upstreams";

/// Annotation on Jobs of builds: name of the `BuildStrategy`.
pub const STRATEGY: &str = "groundswell.dev/strategy";
/// Annotation on Jobs of builds: the repository that the build pushes to.
pub const REPOSITORY: &str = "groundswell.dev/repository";
/// Annotation on Jobs: names of the containers that the Job was created with, comma separated. A
/// webhook that changes Jobs may have added others to the template.
pub const CONTAINERS: &str = "groundswell.dev/containers";

/// Annotation on the Lease of the leader: version of the controller that holds it, with its commit.
pub const CONTROLLER_VERSION: &str = "groundswell.dev/version";
/// Annotation on the Lease of the leader: name of the installation that holds it.
pub const INSTALLATION: &str = "groundswell.dev/installation";

/// Annotation on a Git credential Secret: the hosts, comma separated, that the credential may be
/// sent to. A Secret without it is sent nowhere, so that a family that names somebody else's Secret
/// cannot leak it.
pub const CREDENTIAL_HOSTS: &str = "groundswell.dev/hosts";
/// Annotation on a Namespace: the families, comma separated, that may roll out its workloads. An
/// entry is `namespace/family`, a namespace for all of its families, or `*`.
pub const ROLLOUT_FROM: &str = "groundswell.dev/rollout-from";
/// Annotation on a workload: the repositories, comma separated, to whose images its containers may
/// be moved although they run another image.
pub const ROLLOUT_IMAGES: &str = "groundswell.dev/rollout-images";
/// Annotation on a workload's pod template in `Restart` mode: digest that the workload was last
/// restarted for.
pub const ROLLED_OUT: &str = "groundswell.dev/digest";

/// OCI annotation on every image that Groundswell builds: its fingerprint.
pub const OCI_FINGERPRINT: &str = "dev.groundswell.fingerprint";
/// OCI annotation on every image that Groundswell builds: its build number.
pub const OCI_BUILD: &str = "dev.groundswell.build";
/// OCI annotation on images that a request has rebuilt: id of the request.
pub const OCI_REQUEST: &str = "dev.groundswell.request";
/// OCI annotation on the record of a build: the signed statement, in base64.
pub const OCI_RECORD: &str = "dev.groundswell.record";
/// Upper bound on the length of an id in [`OCI_REQUEST`]: a time, and the name of an object.
const MAX_OCI_REQUEST: usize = 280;

/// Field owner of what the controller applies.
pub const FIELD_OWNER: &str = "groundswell";
/// Field owner of what a rollout applies to a workload.
pub const ROLLOUT_FIELD_OWNER: &str = "groundswell/rollout";

/// Whether the id of a request may be the value of [`OCI_REQUEST`]: builders get annotations in
/// lists of their own syntax.
#[must_use]
pub fn is_annotated_request(id: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
    (1..=MAX_OCI_REQUEST).contains(&id.len()) && id.bytes().all(is_valid)
}
