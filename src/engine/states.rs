//! The transitions between the states of an image while nothing outside interferes: who causes each
//! one, and why.
//!
//! The decision stores no state, so that an event from outside (an input that changes, a request, a
//! record that is lost, a registry that is unreachable) may take an image from any state to any
//! other. This table lists what happens between such events. Random walks through the engine's
//! model assert that they take each of these transitions and no other. `make generate` writes the
//! table to `docs/states.md`.

use std::fmt::Write as _;

use crate::api::ImageState;

/// A transition from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: ImageState,
    /// The state after.
    pub to: ImageState,
    /// Who causes the transition.
    pub by: &'static str,
    /// Why it happens.
    pub why: &'static str,
}

const fn transition(
    from: ImageState,
    to: ImageState,
    by: &'static str,
    why: &'static str,
) -> Transition {
    Transition { from, to, by, why }
}

use ImageState::{Blocked, Building, Checking, Current, Failed, Held, Queued, Waiting};

const CONTROLLER: &str = "controller";
const BUILDER: &str = "builder";
const CHECK: &str = "checks";
const PARENT: &str = "parents";
const REGISTRY: &str = "registry";

/// Every transition, sorted by the state before.
pub const TRANSITIONS: &[Transition] = &[
    transition(Waiting, Queued, CONTROLLER, "its parents are current, and a gate is closed"),
    transition(Waiting, Building, CONTROLLER, "its parents are current, and its Job is started"),
    transition(
        Waiting,
        Checking,
        CONTROLLER,
        "its parents did not change, and its checks have not finished",
    ),
    transition(
        Waiting,
        Current,
        PARENT,
        "its parents did not change, or the registry has its build already",
    ),
    transition(
        Waiting,
        Held,
        PARENT,
        "its parents are current, an input has changed, and it is held",
    ),
    transition(
        Waiting,
        Failed,
        PARENT,
        "its parents are current, and the build that it needs has failed before",
    ),
    transition(Waiting, Blocked, PARENT, "an ancestor has failed"),
    transition(Queued, Waiting, PARENT, "the cascade starts, and a parent is rebuilt first"),
    transition(Queued, Building, CONTROLLER, "its gates open, and its Job is started"),
    transition(
        Building,
        Waiting,
        PARENT,
        "a newer cascade replaces this one, or a hold ends: a parent is rebuilt first",
    ),
    transition(Building, Queued, BUILDER, "its build failed and is retried after a pause"),
    transition(Building, Checking, BUILDER, "its build has pushed, and its checks run"),
    transition(Building, Current, BUILDER, "its build has pushed, and it has no checks"),
    transition(Building, Failed, BUILDER, "its build failed, and no retry is left"),
    transition(
        Building,
        Blocked,
        PARENT,
        "the hold of an ancestor ends, and that ancestor has failed in this cascade",
    ),
    transition(Checking, Waiting, PARENT, "a parent is rebuilt"),
    transition(Checking, Current, CHECK, "its checks have passed"),
    transition(Checking, Failed, CHECK, "a required check failed, and no retry is left"),
    transition(
        Checking,
        Blocked,
        PARENT,
        "the hold of an ancestor ends, and that ancestor has failed in this cascade",
    ),
    transition(Current, Waiting, PARENT, "a parent is rebuilt"),
    transition(Current, Queued, CONTROLLER, "a cascade adopts a change, and a gate is closed"),
    transition(Current, Building, CONTROLLER, "a cascade adopts a change, and its Job is started"),
    transition(Current, Held, PARENT, "an input has changed, and it is held"),
    transition(
        Held,
        Waiting,
        PARENT,
        "its hold ends, or it was never built: a parent is rebuilt first",
    ),
    transition(Held, Queued, CONTROLLER, "its hold ends, and a gate is closed"),
    transition(Held, Building, CONTROLLER, "its hold ends, and its Job is started"),
    transition(
        Held,
        Checking,
        CONTROLLER,
        "its hold ends, the registry has its build already, and its checks run",
    ),
    transition(Held, Current, REGISTRY, "its hold ends, and the registry has its build already"),
    transition(
        Held,
        Failed,
        CONTROLLER,
        "its hold ends, and the build that it needs has failed before",
    ),
    transition(Held, Blocked, PARENT, "its hold ends, and an ancestor has failed"),
    transition(Failed, Waiting, PARENT, "a cascade starts, and a parent is rebuilt first"),
    transition(Failed, Queued, CONTROLLER, "a cascade starts and retries it, and a gate is closed"),
    transition(Failed, Building, CONTROLLER, "a cascade starts and retries its build"),
    transition(Failed, Checking, CONTROLLER, "a cascade starts and retries its checks"),
    transition(Failed, Current, REGISTRY, "the registry has the build after all"),
    transition(Blocked, Waiting, PARENT, "the failed ancestor is retried"),
    transition(
        Blocked,
        Queued,
        PARENT,
        "the registry has the failed ancestor's build after all, and a gate is closed",
    ),
    transition(
        Blocked,
        Building,
        PARENT,
        "the registry has the failed ancestor's build after all, and its own Job is started",
    ),
];

/// Renders the page `docs/states.md`.
#[must_use]
pub fn render_page() -> String {
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

Generated by `make generate` from src/engine/states.rs; do not edit. [What each state
means](concepts.md#states-of-an-image).

The transitions of an image while nothing outside interferes: builds and checks finish, time passes,
cascades start and end. Random walks through the engine's model take each of these transitions, and
no other.

";

const TAIL: &str = concat!(
    "
## From any state to any other

The controller stores no state: every reconcile reads all inputs again and determines the state of
each image. So an event from outside can take an image from any state to any other. The transitions
above hold again from the next reconcile on.

| event | caused by | effect |
|---|---|---|
| an upstream moves | its publisher | a candidate; when its gates open, ",
    "a cascade rebuilds the images built on it |
| the source, the spec or the strategy changes | a user; for the strategy, its administrator | ",
    "`Queued` or `Building`; with changed checks, `Checking` |
| a request | a user | [depends on its action](manual.md#actions): ",
    "`Cancel` leads to `Failed`, `Hold` to `Held` once an input changes, `Rollback` to `Held`, ",
    "`Retry` and `Force` to a build |
| a source, a credential or a registry is unavailable | an outage, or its administrator | ",
    "`Waiting`, or `Checking` if a push is to be confirmed, until it is available again |
| a record is lost | a user, or a restore | ",
    "the state that the registry and the Jobs imply: usually `Current` |
| the controller dies | any | none: the next controller reads the same inputs |
"
);
