//! What goes wrong between the controller and the world, and how often. All of it ends when the
//! script says so.

use std::{collections::BTreeMap, time::Duration};

use crate::{objects::Kind, random::Random};

/// How often, of a thousand calls, each thing goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The API server answers 500, 503, 429 or 409, and does nothing.
    pub refused: u32,
    /// The connection breaks before a call took effect.
    pub broken_before: u32,
    /// The connection breaks after a call took effect.
    pub broken_after: u32,
    /// There is no answer at all; half of the time after the call took effect.
    pub silent: u32,
    /// A new Job is refused by a quota.
    pub quota: u32,
    /// A registry answers 5xx, or limits us, or the connection breaks.
    pub registry: u32,
    /// A build fails for reasons outside of it.
    pub infrastructure: u32,
    /// A build fails by itself, though the same build would pass the next time.
    pub flaky: u32,
    /// A watch breaks and lists anew, or shows a change twice.
    pub watch: u32,
    /// A watch lags by up to half a minute.
    pub lag: u32,
}

impl Rates {
    /// Nothing goes wrong.
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
    };

    /// Each rate by itself.
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

/// What happens to one call to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    Refused(u16, &'static str),
    /// Broken or silent; the first says whether it took effect, the second whether there is an
    /// error rather than silence.
    Lost {
        effect: bool,
        told: bool,
    },
}

/// What happens to one request to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFate {
    Answered,
    Status(u16, Option<u64>),
    Broken { effect: bool },
}

/// The controller dies at its n-th call from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// How many more calls get through.
    pub calls: u32,
    pub moment: Moment,
    /// How long it is down.
    pub down: Duration,
}

/// When in a call the controller dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
    /// Before, and the call takes effect a while later.
    Late,
}

/// The chances of everything that goes wrong.
#[derive(Debug)]
pub struct Faults {
    pub rates: Rates,
    api: Random,
    registry: Random,
    watch: Random,
    /// Of what is neither the controller's nor a fault: how long things take.
    pub machinery: Random,
    /// Registries that are away, and until when.
    pub outages: BTreeMap<String, (u16, Duration)>,
    /// Kinds whose watches stand still, and until when.
    pub stalled: BTreeMap<Kind, Duration>,
    /// Registries refuse what they are pushed.
    pub now: Duration,
    /// Whether all of it has ended.
    pub ended: bool,
}

impl Faults {
    pub fn new(seed: u64, rates: Rates) -> Self {
        let of = |subject| Random::of(seed, subject);
        Self {
            rates,
            api: of("api"),
            registry: of("registry"),
            watch: of("watch"),
            machinery: of("machinery"),
            outages: BTreeMap::new(),
            stalled: BTreeMap::new(),
            now: Duration::ZERO,
            ended: false,
        }
    }

    /// Nothing goes wrong from now on.
    pub fn end(&mut self) {
        self.ended = true;
        self.rates = Rates::NONE;
        self.outages.clear();
        self.stalled.clear();
    }

    /// How long a call is on its way, to there and back.
    pub fn latency(&mut self) -> (Duration, Duration) {
        (self.api.pause(1..40), self.api.pause(1..10))
    }

    /// What happens to a call.
    pub fn fate(&mut self, writes: bool, creates_job: bool) -> Fate {
        let Rates { refused, broken_before, broken_after, silent, quota, .. } = self.rates;
        if creates_job && self.api.chance(quota) {
            return Fate::Refused(403, "Forbidden");
        }
        if self.api.chance(refused) {
            let answers = [
                (500, "InternalError"),
                (503, "ServiceUnavailable"),
                (429, "TooManyRequests"),
                (409, "Conflict"),
            ];
            let (code, reason) = answers[self.api.below(if writes { 4 } else { 3 })];
            return Fate::Refused(code, reason);
        }
        if self.api.chance(broken_before) {
            return Fate::Lost { effect: false, told: true };
        }
        if self.api.chance(broken_after) {
            return Fate::Lost { effect: true, told: true };
        }
        if self.api.chance(silent) {
            return Fate::Lost { effect: self.api.chance(500), told: false };
        }
        Fate::Answered
    }

    /// How long a request to a registry is on its way.
    pub fn registry_latency(&mut self) -> Duration {
        self.registry.pause(2..80)
    }

    /// What happens to a request to a registry.
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

    /// Whether a registry is away for builders too.
    pub fn is_away(&self, host: &str, now: Duration) -> bool {
        self.outages.get(host).is_some_and(|(_, until)| now < *until)
    }

    /// After how long a watch shows a change.
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

    /// Whether a watch breaks, or shows a change twice.
    pub fn watch_breaks(&mut self) -> bool {
        self.watch.chance(self.rates.watch)
    }
}
