//! Pauses that registries ask for, and what they say is left.
//!
//! A registry that limits the rate of requests says so in many forms. The next caller would send a
//! request too early and prolong the limit, so the client itself remembers the pause. It does so
//! per host and credential, because registries count requests per credential, and separately for
//! what they count separately: polls, pulls and pushes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use tokio::time::Instant;

use crate::registry::credentials::CredentialIdentity;

/// Maximum number of limits that are remembered.
const MAX_LIMITS: usize = 4096;
/// Upper bound on the pause that a registry can ask for.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// The first pause if a registry names none. It doubles with each further limit.
const DEFAULT_PAUSE: Duration = Duration::from_secs(30);
/// Upper bound on the pause if a registry names none.
const MAX_DEFAULT_PAUSE: Duration = Duration::from_mins(15);
/// The pause for pulls after a registry has said that none is left. Polls show earlier whether one
/// is left again.
const NOTHING_LEFT_PAUSE: Duration = Duration::from_mins(5);
/// The first second of the year 2001. A larger number is a point in time, not a pause.
const FIRST_POINT_IN_TIME: f64 = 978_307_200.0;

/// The headers that name a pause, or the point in time at which it ends.
const PAUSE_HEADERS: [&str; 5] =
    ["retry-after", "x-retry-after", "x-ratelimit-reset", "ratelimit-reset", "x-rate-limit-reset"];
const REMAINING_HEADER: &str = "ratelimit-remaining";
/// How many of them name a pause and not the end of a window, in which most requests are accepted.
const OUTAGE_HEADERS: usize = 2;
/// Words in the body of a 403 that is a limit, in lower case. A response may quote the name of the
/// repository, which contains no space.
const LIMIT_WORDS: [&str; 2] = ["rate limit", "too many requests"];
/// Codes in such a body. The name of a repository contains no capital letter.
const LIMIT_CODES: [&str; 3] = ["TOOMANYREQUESTS", "RATELIMIT", "RateLimit"];

/// What a registry counts separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LimitClass {
    /// `HEAD`, which is free at many registries.
    Poll,
    /// `GET`, which is counted.
    Pull,
    /// Everything that changes something.
    Push,
    /// Requests of tokens.
    Token,
}

impl LimitClass {
    /// Returns the class of a request to a registry.
    pub(super) fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Poll,
            Method::GET => Self::Pull,
            _ => Self::Push,
        }
    }

    /// Returns the classes that wait after one of them is limited: a registry that limits what is
    /// free limits what is counted as well.
    const fn limited_together(self) -> &'static [Self] {
        match self {
            Self::Poll => &[Self::Poll, Self::Pull],
            Self::Pull => &[Self::Pull],
            Self::Push => &[Self::Push],
            Self::Token => &[Self::Token],
        }
    }
}

/// A limit that a response states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatedLimit {
    /// The pause, if the response names one.
    pub pause: Option<Duration>,
}

/// Returns the limit that a response states: 429, or a 403 that names a pause or a rate limit. The
/// body is given in the form in which messages quote it.
pub(super) fn stated_limit(
    status: StatusCode,
    headers: &HeaderMap,
    quoted: &str,
    now: Timestamp,
) -> Option<StatedLimit> {
    let pause = stated_pause(headers, now);
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(StatedLimit { pause }),
        StatusCode::FORBIDDEN => {
            let lower = quoted.to_ascii_lowercase();
            let is_limit = headers.contains_key(header::RETRY_AFTER)
                || LIMIT_CODES.iter().any(|code| quoted.contains(code))
                || LIMIT_WORDS.iter().any(|word| lower.contains(word));
            is_limit.then_some(StatedLimit { pause })
        }
        _ => None,
    }
}

/// Returns the pause that the headers of a limit name. It is at most [`MAX_PAUSE`].
pub(super) fn stated_pause(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    pause_of(&PAUSE_HEADERS, headers, now)
}

/// Returns the pause that the headers of any other response name. Many registries send the end of
/// the current window with every response, which is no pause.
pub(super) fn outage_pause(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    pause_of(PAUSE_HEADERS.get(..OUTAGE_HEADERS).unwrap_or_default(), headers, now)
}

fn pause_of(names: &[&str], headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = |name: &&str| headers.get(*name).and_then(|value| value.to_str().ok());
    names.iter().filter_map(value).find_map(|value| parse_pause(value, now))
}

/// Parses a pause: seconds, also with a fraction or the unit `s`, a date, or the seconds since 1970
/// of a point in time.
fn parse_pause(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let number = value.strip_suffix('s').unwrap_or(value).split(';').next()?.trim();
    let number: Option<f64> = number.parse().ok().filter(|number: &f64| number.is_finite());
    let pause = if let Some(seconds) = number {
        let is_point_in_time = seconds >= FIRST_POINT_IN_TIME;
        #[expect(clippy::cast_precision_loss, reason = "a point in time in seconds")]
        let since = if is_point_in_time { now.as_second() as f64 } else { 0.0 };
        Duration::try_from_secs_f64((seconds - since).max(0.0)).unwrap_or(MAX_PAUSE)
    } else {
        let until = rfc2822::parse(value).ok()?.timestamp();
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(pause.min(MAX_PAUSE))
}

/// How many pulls are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RemainingPulls {
    count: u64,
    /// The length of the window in which they are counted, if the response names one.
    window: Option<Duration>,
}

impl RemainingPulls {
    /// Returns how many pulls are left, if a response says so: `COUNT` or `COUNT;w=SECONDS`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(REMAINING_HEADER)?.to_str().ok()?;
        let mut parts = value.split(';').map(str::trim);
        let count = parts.next()?.parse().ok()?;
        let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
        Some(Self { count, window: window.map(Duration::from_secs) })
    }
}

/// A host, a credential and what is counted.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LimitKey {
    base: String,
    identity: CredentialIdentity,
    class: LimitClass,
}

/// A pause, and what the registry said.
#[derive(Clone)]
struct ActiveLimit {
    until: Instant,
    /// Number of limits in a row without a named pause.
    unnamed: u32,
    cause: LimitResponse,
}

/// What the registry said.
#[derive(Clone, PartialEq, Eq)]
enum LimitResponse {
    /// This, in the form in which messages quote it.
    Quoted(String),
    /// That no pull is left.
    NothingLeft,
}

impl LimitResponse {
    fn quoted(&self) -> String {
        match self {
            Self::Quoted(response) => response.clone(),
            Self::NothingLeft => "no pull is left".to_owned(),
        }
    }
}

/// A pause that has not passed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemainingPause {
    /// How much of it remains.
    pub pause: Duration,
    /// What the registry said.
    pub response: String,
}

/// Hosts that must not be called before a point in time.
#[derive(Default)]
pub(super) struct RateLimits(Mutex<HashMap<LimitKey, ActiveLimit>>);

impl RateLimits {
    /// Starts a pause for this host, credential and class, and returns it.
    pub(super) fn begin(
        &self,
        base: &str,
        identity: CredentialIdentity,
        class: LimitClass,
        limit: StatedLimit,
        response: &str,
    ) -> Duration {
        let key = LimitKey { base: base.to_owned(), identity, class };
        self.begin_with(&key, limit, &LimitResponse::Quoted(response.to_owned()))
    }

    fn begin_with(&self, key: &LimitKey, limit: StatedLimit, cause: &LimitResponse) -> Duration {
        let now = Instant::now();
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unnamed = limits.get(key).map_or(0, |known| known.unnamed);
        let (pause, unnamed) = if let Some(pause) = limit.pause {
            (pause, 0)
        } else {
            let doubled = DEFAULT_PAUSE.saturating_mul(1 << unnamed.min(10));
            (doubled.min(MAX_DEFAULT_PAUSE), unnamed.saturating_add(1))
        };
        for class in key.class.limited_together() {
            let key = LimitKey { class: *class, ..key.clone() };
            let until = now + pause;
            let known = limits.get(&key).filter(|known| known.until > until);
            if known.is_none() && make_room(&mut limits, &key, now) {
                limits.insert(key, ActiveLimit { until, unnamed, cause: cause.clone() });
            }
        }
        pause
    }

    /// Notes how many pulls are left. If none is, pulls pause. A pause that the registry asked for
    /// goes on, however many are left.
    pub(super) fn note_remaining(
        &self,
        base: &str,
        identity: CredentialIdentity,
        remaining: RemainingPulls,
    ) {
        let key = LimitKey { base: base.to_owned(), identity, class: LimitClass::Pull };
        if remaining.count > 0 {
            let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if limits.get(&key).is_some_and(|known| known.cause == LimitResponse::NothingLeft) {
                limits.remove(&key);
            }
            return;
        }
        let pause = remaining.window.map_or(NOTHING_LEFT_PAUSE, |window| {
            window.clamp(Duration::from_secs(1), NOTHING_LEFT_PAUSE)
        });
        let limit = StatedLimit { pause: Some(pause) };
        self.begin_with(&key, limit, &LimitResponse::NothingLeft);
    }

    /// Notes that a request of this class was not limited.
    pub(super) fn note_success(&self, base: &str, identity: CredentialIdentity, class: LimitClass) {
        let key = LimitKey { base: base.to_owned(), identity, class };
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if limits.get(&key).is_some_and(|known| known.until <= Instant::now()) {
            limits.remove(&key);
        }
    }

    /// Whether no limit is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Returns the hosts that are paused for any credential and class, and for how long.
    pub(super) fn paused(&self) -> Vec<(String, Duration)> {
        let (now, limits) = (Instant::now(), self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let remaining = limits
            .iter()
            .map(|(key, known)| (key.base.clone(), known.until.saturating_duration_since(now)));
        remaining.filter(|(_, pause)| !pause.is_zero()).collect()
    }

    /// Returns how much of the pause remains, or `None` if there is none.
    pub(super) fn remaining(
        &self,
        base: &str,
        identity: CredentialIdentity,
        class: LimitClass,
    ) -> Option<RemainingPause> {
        let key = LimitKey { base: base.to_owned(), identity, class };
        let limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = limits.get(&key)?;
        let pause = known.until.saturating_duration_since(Instant::now());
        let response = known.cause.quoted();
        Some(RemainingPause { pause, response }).filter(|remaining| !remaining.pause.is_zero())
    }
}

/// Whether a limit can be remembered. Drops those that have passed if there are too many.
fn make_room(limits: &mut HashMap<LimitKey, ActiveLimit>, key: &LimitKey, now: Instant) -> bool {
    if limits.len() >= MAX_LIMITS {
        limits.retain(|_, known| now < known.until);
    }
    limits.len() < MAX_LIMITS || limits.contains_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::CredentialUse, registry::Keychain};

    const BASE: &str = "https://r.example";

    fn identity() -> CredentialIdentity {
        Keychain::default().identity(["r.example"], "a", CredentialUse::Pull)
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (header::HeaderName::from_static(name), value.parse().expect("a value"))
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends() {
        let limits = RateLimits::default();
        let remaining = || {
            let remaining = limits.remaining(BASE, identity(), LimitClass::Pull);
            remaining.map(|remaining| remaining.pause)
        };
        assert_eq!(remaining(), None);
        let limit = StatedLimit { pause: Some(Duration::from_mins(2)) };
        limits.begin(BASE, identity(), LimitClass::Pull, limit, "429");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(remaining(), Some(Duration::from_mins(1)));
        assert_eq!(limits.remaining(BASE, identity(), LimitClass::Poll), None);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_pause_for_want_of_pulls_ends_when_some_are_left() {
        let remaining = |count| RemainingPulls { count, window: None };
        let is_paused =
            |limits: &RateLimits| limits.remaining(BASE, identity(), LimitClass::Pull).is_some();
        let limits = RateLimits::default();
        limits.note_remaining(BASE, identity(), remaining(0));
        assert!(is_paused(&limits));
        limits.note_remaining(BASE, identity(), remaining(5));
        assert!(!is_paused(&limits));
        // The words of a registry are not ours, whatever they are.
        let limit = StatedLimit { pause: Some(Duration::from_hours(1)) };
        limits.begin(BASE, identity(), LimitClass::Pull, limit, "no pull is left");
        limits.note_remaining(BASE, identity(), remaining(5));
        assert!(is_paused(&limits), "what was asked for goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_without_a_name_doubles_up_to_a_bound() {
        let limits = RateLimits::default();
        let begin = || {
            let limit = StatedLimit { pause: None };
            limits.begin(BASE, identity(), LimitClass::Poll, limit, "429").as_secs()
        };
        assert_eq!([begin(), begin(), begin()], [30, 60, 120]);
        assert_eq!([begin(), begin(), begin(), begin()], [240, 480, 900, 900]);
        tokio::time::advance(Duration::from_mins(16)).await;
        limits.note_success(BASE, identity(), LimitClass::Poll);
        assert_eq!(begin(), 30);
    }

    #[test]
    fn pauses_are_seconds_dates_or_points_in_time_and_bounded() {
        let now = "2026-01-02T03:04:05Z".parse().expect("time");
        for (value, expected) in [
            ("7", Some(7.0)),
            (" 0.5", Some(0.5)),
            ("30s", Some(30.0)),
            ("60;w=60", Some(60.0)),
            ("-3", Some(0.0)),
            ("1767323645", Some(600.0)),
            ("1767320000", Some(0.0)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(60.0)),
            ("Fri, 02 Jan 2026 03:00:05 GMT", Some(0.0)),
            ("999999999999", Some(3600.0)),
            ("1e300", Some(3600.0)),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
        ] {
            let pause = parse_pause(value, now).map(|pause| pause.as_secs_f64());
            assert_eq!(pause, expected, "{value}");
        }
    }

    #[test]
    fn limits_have_many_forms() {
        let now = "2026-01-02T03:04:05Z".parse().expect("time");
        let limit = |status: StatusCode, lines: &[(&'static str, &str)], body: &str| {
            stated_limit(status, &headers(lines), body, now).map(|limit| limit.pause)
        };
        let seconds = |seconds| Some(Some(Duration::from_secs(seconds)));
        let (limited, forbidden) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::FORBIDDEN);
        assert_eq!(limit(limited, &[], ""), Some(None));
        assert_eq!(
            limit(limited, &[("retry-after", "soon"), ("ratelimit-reset", "9")], ""),
            seconds(9)
        );
        assert_eq!(limit(forbidden, &[("retry-after", "60")], ""), seconds(60));
        assert_eq!(limit(forbidden, &[], "a secondary Rate Limit"), Some(None));
        assert_eq!(limit(forbidden, &[], "DENIED"), None);
        assert_eq!(limit(StatusCode::UNAUTHORIZED, &[("retry-after", "60")], ""), None);
    }
}
