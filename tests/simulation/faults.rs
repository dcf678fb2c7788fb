//! Faults between the controller and its environment, and how often they happen. All of them stop
//! at the end of the script.

use std::{collections::BTreeMap, time::Duration};

use crate::{objects::Kind, random::Random};

/// How often each fault happens, per thousand calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The API server answers 500, 503, 429 or 409, without effect.
    pub refused: u32,
    /// The connection breaks before a call takes effect.
    pub broken_before: u32,
    /// The connection breaks after a call has taken effect.
    pub broken_after: u32,
    /// There is no answer; in half of the cases the call has taken effect.
    pub silent: u32,
    /// A quota or a policy refuses Jobs for a while, or the pod of a Job.
    pub quota: u32,
    /// A registry answers 5xx or 429, or the connection breaks.
    pub registry: u32,
    /// The infrastructure of a build fails.
    pub infrastructure: u32,
    /// A build fails, though the same build would succeed the next time.
    pub flaky: u32,
    /// A watch breaks and lists again, or delivers a change twice.
    pub watch: u32,
    /// A watch lags by up to half a minute.
    pub lag: u32,
    /// Somebody who may push replaces what a build pushes. It is drawn apart from the others.
    pub stranger: u32,
}

impl Rates {
    /// No faults.
    pub const NONE: Self = Self {
        refused: 0,
        broken_before: 0,
        broken_after: 0,
        silent: 0,
        quota: 0,
        registry: 0,
        infrastructure: 0,
        flaky: 0,
        watch: 0,
        lag: 0,
        stranger: 0,
    };

    /// Accessors of each rate.
    pub const EACH: [fn(&mut Self) -> &mut u32; 10] = [
        |rates| &mut rates.refused,
        |rates| &mut rates.broken_before,
        |rates| &mut rates.broken_after,
        |rates| &mut rates.silent,
        |rates| &mut rates.quota,
        |rates| &mut rates.registry,
        |rates| &mut rates.infrastructure,
        |rates| &mut rates.flaky,
        |rates| &mut rates.watch,
        |rates| &mut rates.lag,
    ];
}

/// How a Job is refused: the status code, and the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub message: &'static str,
}

/// Refusals by quotas, policies and webhooks, which come and go.
const REFUSALS: [Refusal; 5] = [
    Refusal {
        code: 403,
        message: "jobs.batch \"x\" is forbidden: exceeded quota: jobs, requested: \
                  count/jobs.batch=1, used: count/jobs.batch=9, limited: count/jobs.batch=9",
    },
    Refusal { code: 403, message: "jobs.batch \"x\" is forbidden: the model says so" },
    Refusal {
        code: 422,
        message: "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
                  denied request: no",
    },
    Refusal { code: 400, message: "admission webhook \"w\" denied the request: no" },
    Refusal {
        code: 500,
        message: "Internal error occurred: failed calling webhook \"w\": no endpoints available",
    },
];

/// The fate of one call to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFate {
    Answered,
    Refused(u16, &'static str),
    /// A Job is not admitted.
    NotAdmitted(Refusal),
    /// The connection breaks, or there is no answer.
    Lost {
        /// Whether the call takes effect.
        takes_effect: bool,
        /// Whether the caller gets an error rather than no answer.
        reports_error: bool,
    },
}

/// The fate of one request to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFate {
    Answered,
    Status(u16, Option<u64>),
    Broken { effect: bool },
}

/// A crash of the controller during a later call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// How many calls complete before.
    pub calls: u32,
    pub moment: Moment,
    /// How long the controller is down.
    pub down: Duration,
}

/// When the controller dies, relative to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
    /// Before the call takes effect, which it does a while later.
    Late,
}

/// Draws all faults.
#[derive(Debug)]
pub struct Faults {
    pub rates: Rates,
    api: Random,
    admission: Random,
    /// How Jobs are refused, and until when.
    refusal: Option<(Refusal, Duration)>,
    registry: Random,
    watch: Random,
    /// For durations that are neither the controller's nor a fault.
    pub machinery: Random,
    /// The status that registries in an outage answer with (0: no answer), and until when.
    pub outages: BTreeMap<String, (u16, Duration)>,
    /// Kinds whose watches are stalled, and until when.
    pub stalled: BTreeMap<Kind, Duration>,
    /// The time since the start.
    pub now: Duration,
    /// Whether all faults have stopped.
    pub ended: bool,
}

impl Faults {
    pub fn new(seed: u64, rates: Rates) -> Self {
        let of = |subject| Random::of(seed, subject);
        Self {
            rates,
            api: of("api"),
            admission: of("admission"),
            refusal: None,
            registry: of("registry"),
            watch: of("watch"),
            machinery: of("machinery"),
            outages: BTreeMap::new(),
            stalled: BTreeMap::new(),
            now: Duration::ZERO,
            ended: false,
        }
    }

    /// Stops all faults.
    pub fn stop(&mut self) {
        self.ended = true;
        self.rates = Rates::NONE;
        self.refusal = None;
        self.outages.clear();
        self.stalled.clear();
    }

    /// Draws how long a call takes to arrive, and its answer to return.
    pub fn latency(&mut self) -> (Duration, Duration) {
        (self.api.pause(1..40), self.api.pause(1..10))
    }

    /// Draws the fate of a call.
    pub fn fate(&mut self, writes: bool, creates_job: bool) -> CallFate {
        let Rates { refused, broken_before, broken_after, silent, quota, .. } = self.rates;
        let begins = creates_job && self.api.chance(quota);
        let lasts = self.refusal.filter(|(_, until)| self.now < *until);
        if begins && lasts.is_none() {
            let refusal = REFUSALS[self.admission.below(REFUSALS.len())];
            self.refusal = Some((refusal, self.now + self.admission.pause(1..600_000)));
        }
        if let Some((refusal, until)) = self.refusal.filter(|_| creates_job)
            && self.now < until
        {
            return CallFate::NotAdmitted(refusal);
        }
        if self.api.chance(refused) {
            let answers = [
                (500, "InternalError"),
                (503, "ServiceUnavailable"),
                (429, "TooManyRequests"),
                (409, "Conflict"),
            ];
            let (code, reason) = answers[self.api.below(if writes { 4 } else { 3 })];
            return CallFate::Refused(code, reason);
        }
        if self.api.chance(broken_before) {
            return CallFate::Lost { takes_effect: false, reports_error: true };
        }
        if self.api.chance(broken_after) {
            return CallFate::Lost { takes_effect: true, reports_error: true };
        }
        if self.api.chance(silent) {
            return CallFate::Lost { takes_effect: self.api.chance(500), reports_error: false };
        }
        CallFate::Answered
    }

    /// Draws how long a request to a registry takes to arrive.
    pub fn registry_latency(&mut self) -> Duration {
        self.registry.pause(2..80)
    }

    /// Draws the fate of a request to a registry.
    pub fn registry_fate(&mut self, host: &str, now: Duration) -> RegistryFate {
        if let Some((status, _)) = self.outages.get(host).filter(|(_, until)| now < *until) {
            return match *status {
                0 => RegistryFate::Broken { effect: false },
                429 => RegistryFate::Status(429, Some(10)),
                status => RegistryFate::Status(status, None),
            };
        }
        if self.registry.chance(self.rates.registry) {
            return match self.registry.below(5) {
                0 => RegistryFate::Broken { effect: false },
                1 => RegistryFate::Broken { effect: true },
                2 => RegistryFate::Status(429, Some(3)),
                3 => RegistryFate::Status(500, None),
                _ => RegistryFate::Status(503, None),
            };
        }
        RegistryFate::Answered
    }

    /// Returns whether a registry is unreachable for builders.
    pub fn is_unreachable(&self, host: &str, now: Duration) -> bool {
        self.outages.get(host).is_some_and(|(_, until)| now < *until)
    }

    /// Draws how long a watch takes to deliver a change.
    pub fn lag(&mut self, kind: Kind) -> Duration {
        if let Some(until) = self.stalled.get(&kind) {
            return until.saturating_sub(self.now).max(Duration::from_millis(1));
        }
        if self.watch.chance(self.rates.lag) {
            self.watch.pause(500..30_000)
        } else {
            self.watch.pause(1..60)
        }
    }

    /// Draws whether a watch breaks, or delivers a change twice.
    pub fn watch_breaks(&mut self) -> bool {
        self.watch.chance(self.rates.watch)
    }
}
