//! The custom resources: what users write, and what the controller records.
//!
//! This module has the types, their schemas and their offline validation. It does no IO and has no
//! clock and no client. The schema is the first guard: the types declare every rule that CEL can
//! express, with a message that says what to do. Rules that need the whole graph are in
//! [`crate::lineage`] and [`crate::engine::validate`].

pub mod adoption;
pub mod build_strategy;
pub mod cascade;
pub mod condition;
pub mod credential;
pub mod dns_label;
pub mod duration;
pub mod family_request;
pub mod family_status;
pub mod image;
pub mod image_family;
pub mod image_records;
pub mod labels;
pub mod late_source;
pub mod managed_image;
pub mod patterns;
pub mod policy;
pub mod reference;
pub mod refresh;
pub mod request;
pub mod rollout;
pub mod schema;
pub mod source;
pub mod upstream;

pub use adoption::{Adoption, AdoptionRecord, Unmatched};
pub use build_strategy::{BuildStrategy, BuildStrategySpec, Parameter, UserNamespace};
pub use cascade::{
    Cascade, CascadePhase, CascadeSpec, CascadeStatus, Cause, CauseType, ImageResult,
};
pub use credential::{CredentialUse, RegistryCredential};
pub use duration::Duration;
pub use family_request::{
    FamilyRequest, FamilyRequestSpec, FamilyRequestStatus, RequestState, RolledBackImage,
};
pub use family_status::{
    AdoptedDigest, ApprovalRecord, Attention, BreakerStatus, CandidateDigest, ImageCounts,
    ImageFamilyStatus, ManualHold, Pending, PlatformDigest, RunningCascade, TagContent,
    UpstreamStatus, WindowStatus,
};
pub use image::{Check, Edge, EdgeSource, EdgeUse, FamilyRef, Image, ImageHold, OnParentFailure};
pub use image_family::{
    Export, History, ImageFamily, ImageFamilySpec, LeftOutImage, LocalName, StrategyRef,
};
pub use image_records::{
    BuildFailure, BuildRecord, CheckRecord, CheckState, FailureClass, FailureRecord,
    RollbackRecord, RolloutRecord, RolloutState,
};
pub use managed_image::{
    ClaimRecord, FoundEdge, ImageState, Inputs, LabelRecord, ManagedImage, ManagedImageSpec,
    ManagedImageStatus, ParentDigest, RememberedUpstream, ReportedPush, RunningBuild, TagRecord,
};
pub use policy::{Breaker, Cutoff, Policy, Promotion, RateLimit, Retries, Supersede, Window};
pub use refresh::{Refresh, RefreshReason};
pub use request::{ActionName, HoldTarget, Request, RequestError, RequestScope, RequestedAction};
pub use rollout::{Rollout, RolloutMode, Workload, WorkloadKind};
pub use source::{
    ConfigMapItem, ConfigMapSource, GitSource, PathOutside, Source, SourceDefaults, SourceKind,
};
pub use upstream::{Approval, Follow, Hold, Upstream, UpstreamDefaults};

/// API group of all kinds.
pub const GROUP: &str = "groundswell.dev";
/// The only version so far.
pub const VERSION: &str = "v1alpha1";
