//! The ways of an image from state to state, while nobody interferes: who takes it there, and why.
//!
//! The decision remembers nothing, so that an event from outside (an input that changes, a request,
//! a record that is lost, a registry that is away) may take an image from any state to any other.
//! What is told here is what happens between such events. Walks through the engine's model assert
//! that each way is taken and no other; `make generate` writes them to `docs/states.md`.

use std::fmt::Write as _;

use crate::api::ImageState;

/// A way from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: ImageState,
    /// The state after.
    pub to: ImageState,
    /// Who takes the image there.
    pub by: &'static str,
    /// Why.
    pub why: &'static str,
}

const fn way(from: ImageState, to: ImageState, by: &'static str, why: &'static str) -> Transition {
    Transition { from, to, by, why }
}

use ImageState::{Blocked, Building, Checking, Current, Failed, Held, Queued, Waiting};

const CONTROLLER: &str = "controller";
const BUILDER: &str = "builder";
const CHECK: &str = "checks";
const PARENT: &str = "parents";
const REGISTRY: &str = "registry";

/// All of them, by the state before.
pub const TRANSITIONS: &[Transition] = &[
    way(Waiting, Queued, CONTROLLER, "its parents are current, and a gate keeps it"),
    way(Waiting, Building, CONTROLLER, "its parents are current, and its Job is started"),
    way(
        Waiting,
        Checking,
        CONTROLLER,
        "its parents came out the same, and its checks are not through",
    ),
    way(
        Waiting,
        Current,
        PARENT,
        "its parents came out the same, or its build stands in the registry already",
    ),
    way(Waiting, Held, PARENT, "its parents are current, an input has changed, and it is held"),
    way(
        Waiting,
        Failed,
        PARENT,
        "its parents are current, and the build that it needs has failed before",
    ),
    way(Waiting, Blocked, PARENT, "an ancestor has failed"),
    way(Queued, Waiting, PARENT, "the cascade begins, and a parent is rebuilt first"),
    way(Queued, Building, CONTROLLER, "its gates open, and its Job is started"),
    way(
        Building,
        Waiting,
        PARENT,
        "a newer cascade takes the place of this one, or a hold ends: a parent is rebuilt first",
    ),
    way(Building, Queued, BUILDER, "its build failed, and is tried again after a pause"),
    way(Building, Checking, BUILDER, "its build has pushed, and its checks run"),
    way(Building, Current, BUILDER, "its build has pushed, and it has no checks"),
    way(Building, Failed, BUILDER, "its build failed as often as it may"),
    way(
        Building,
        Blocked,
        PARENT,
        "the hold of an ancestor ends, and that one has failed in this cascade",
    ),
    way(Checking, Waiting, PARENT, "a parent is rebuilt"),
    way(Checking, Current, CHECK, "its checks have passed"),
    way(Checking, Failed, CHECK, "a required check failed as often as it may"),
    way(
        Checking,
        Blocked,
        PARENT,
        "the hold of an ancestor ends, and that one has failed in this cascade",
    ),
    way(Current, Waiting, PARENT, "a parent is rebuilt"),
    way(Current, Queued, CONTROLLER, "a cascade takes up a change, and a gate keeps the image"),
    way(Current, Building, CONTROLLER, "a cascade takes up a change, and its Job is started"),
    way(Current, Held, PARENT, "an input has changed, and it is held"),
    way(Held, Waiting, PARENT, "its hold ends, or it was never built: a parent is rebuilt first"),
    way(Held, Queued, CONTROLLER, "its hold ends, and a gate keeps it"),
    way(Held, Building, CONTROLLER, "its hold ends, and its Job is started"),
    way(
        Held,
        Checking,
        CONTROLLER,
        "its hold ends, its build stands in the registry already, and its checks run",
    ),
    way(Held, Current, REGISTRY, "its hold ends, and its build stands in the registry already"),
    way(Held, Failed, CONTROLLER, "its hold ends, and the build that it needs has failed before"),
    way(Held, Blocked, PARENT, "its hold ends, and an ancestor has failed"),
    way(Failed, Waiting, PARENT, "a cascade begins, and a parent is rebuilt first"),
    way(Failed, Queued, CONTROLLER, "a cascade begins and tries it again, and a gate keeps it"),
    way(Failed, Building, CONTROLLER, "a cascade begins and tries it again"),
    way(Failed, Checking, CONTROLLER, "a cascade begins and checks it again"),
    way(Failed, Current, REGISTRY, "the registry has the build after all"),
    way(Blocked, Waiting, PARENT, "the failed ancestor is tried again"),
    way(
        Blocked,
        Queued,
        PARENT,
        "the registry has the failed ancestor's build after all, and a gate keeps the image",
    ),
    way(
        Blocked,
        Building,
        PARENT,
        "the registry has the failed ancestor's build after all, and its Job is started",
    ),
];

/// The page of the documentation.
#[must_use]
pub fn page() -> String {
    let mut text = String::from(HEAD);
    text.push_str("```mermaid\nstateDiagram-v2\n    [*] --> Waiting\n");
    for Transition { from, to, by, .. } in TRANSITIONS {
        // Writing to a string does not fail.
        _ = writeln!(text, "    {} --> {}: {by}", from.as_str(), to.as_str());
    }
    text.push_str("```\n\n| from | to | by | why |\n|---|---|---|---|\n");
    for Transition { from, to, by, why } in TRANSITIONS {
        _ = writeln!(text, "| `{}` | `{}` | {by} | {why} |", from.as_str(), to.as_str());
    }
    text.push_str(TAIL);
    text
}

const HEAD: &str = "# States of an image

Generated by `make generate` from src/engine/states.rs; do not edit. [What each state means](concepts.md#states-of-an-image).

The ways that an image takes while nobody interferes: builds and checks end, time passes, cascades begin and end. Walks through the
engine's model take each of them, and no other.

";

const TAIL: &str = "
## From any state to any other

The controller remembers no state: each pass looks at the world and says what every image is. So an event from outside can take an image
from any state to any other, and from the next pass on the ways above hold again.

| event | caused by | what it leads to |
|---|---|---|
| an upstream moves | its publisher | a candidate; when its gates open, what stands on it goes through a cascade |
| the source, the spec or the strategy changes | a person | `Queued` or `Building`; with changed checks, `Checking` |
| a request | a person | [by its action](manual.md#actions): `Cancel` leads to `Failed`, `Hold` to `Held` once an input changes, `Retry` and `Force` to a build |
| a source, a credential or a registry can't be reached | somebody else | `Waiting`, or `Checking` where a push is to be confirmed, until it is back |
| a record is lost | a person, or a restore | what the registry and the Jobs say: mostly `Current` |
| the controller dies | anybody | nothing: the next one sees the same world |
";
