//! Windows: when builds may start, by the clock of a time zone.
//!
//! A schedule is matched against the zone's wall clock. This module defines what that means when
//! the clock is set forward or back; the cron library only sees a clock that never changes. A start
//! that the clock skips happens at the moment of the change. A start that the clock shows twice
//! happens both times. A window's duration is elapsed time: a window that opens at 22:00 for 6
//! hours closes at 05:00 in the night in which the clock is set forward.
//!
//! The time zone database is compiled into the program, so that a schedule means the same on every
//! machine.

use std::sync::{Mutex, PoisonError};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::{
    SignedDuration, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

use crate::api::Window;

/// Upper bound on the characters of a schedule.
const MAX_SCHEDULE_LENGTH: usize = 100;
/// The shortest duration of a window.
const MIN_DURATION: SignedDuration = SignedDuration::from_mins(1);
/// The longest duration of a window: a week.
const MAX_DURATION: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How far ahead the end of adjoining windows is searched: longer than the longest window.
const JOIN_HORIZON: SignedDuration = SignedDuration::from_hours(8 * 24);
/// Upper bound on the windows that are joined within that horizon. Finding each next one searches
/// the calendar.
const MAX_JOINED: usize = 300;
/// Upper bound on the clock changes that the search for the next start crosses. The library
/// searches four years ahead, and no zone changes its clock more than four times a year.
const MAX_CLOCK_CHANGES: usize = 20;
/// Years from which a start within four years is searched. Together they contain every arrangement
/// of weekdays and leap days.
const SAMPLE_YEARS: [i64; 7] = [2001, 2005, 2009, 2013, 2017, 2021, 2025];
/// The end of the search, in seconds since 1970: the calendar of the library ends soon after.
const MAX_SEARCH_SECOND: i64 = 250_000_000_000;

/// Whether builds may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// No windows are configured: builds may always start.
    Unrestricted,
    /// Builds may start.
    Open {
        /// When the last of the windows that overlap or adjoin closes; `None` if that is more than
        /// eight days or 300 openings away.
        closes: Option<Timestamp>,
    },
    /// No build may start.
    Closed {
        /// When the next window opens; `None` if none opens within four years.
        opens: Option<Timestamp>,
    },
}

impl WindowState {
    /// Whether no build may start.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

/// Why a window is invalid. The message names the field and says what to write instead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    /// The schedule is not a cron expression.
    #[error(
        "spec.policy.windows[{index}].schedule: `{schedule}` is not a cron expression ({problem}); \
         write five fields (minute, hour, day of month, month, day of week), as in `0 22 * * 1-5`"
    )]
    Schedule {
        /// The window's index in the list.
        index: usize,
        /// The schedule.
        schedule: String,
        /// What is wrong with the schedule.
        problem: String,
    },
    /// The schedule is a cron expression for a date that does not exist.
    #[error(
        "spec.policy.windows[{index}].schedule: `{schedule}` matches no date, so the window never \
         opens; name a date that exists, or `*` as the day of month"
    )]
    NeverOpens {
        /// The window's index in the list.
        index: usize,
        /// The schedule.
        schedule: String,
    },
    /// The time zone does not exist.
    #[error(
        "spec.policy.windows[{index}].timeZone: the time zone `{zone}` does not exist; write a \
         name from the IANA database, for example `{example}`"
    )]
    TimeZone {
        /// The window's index in the list.
        index: usize,
        /// The name of the zone.
        zone: String,
        /// A zone that exists: the one that is probably meant, if there is one.
        example: String,
    },
    /// The duration is too short or too long.
    #[error("spec.policy.windows[{index}].duration: {duration} is not between 1m and 168h")]
    Duration {
        /// The window's index in the list.
        index: usize,
        /// The duration.
        duration: crate::api::Duration,
    },
}

/// Parsed windows. Callers that query them often parse them once per generation of the spec.
#[derive(Debug)]
pub struct Windows {
    windows: Vec<ParsedWindow>,
    /// The last answer: the library finds one by searching the calendar hour by hour.
    cached: Mutex<Option<CachedState>>,
}

/// A state, and the time span for which it is valid.
#[derive(Clone, Copy, Debug)]
struct CachedState {
    from: Timestamp,
    until: Timestamp,
    state: WindowState,
}

/// A parsed window.
#[derive(Clone, Debug)]
struct ParsedWindow {
    /// The schedule, for a clock that never changes.
    schedule: Crontab,
    duration: SignedDuration,
    zone: TimeZone,
}

impl Windows {
    /// Parses windows. An error names the first window that is invalid, or whose schedule names no
    /// date that exists: builds would wait for it for ever.
    pub fn parse(windows: &[Window]) -> Result<Self, WindowError> {
        let mut parsed = Vec::with_capacity(windows.len());
        for (index, window) in windows.iter().enumerate() {
            let opens = ParsedWindow::parse(index, window)?;
            if !opens.ever_opens() {
                return Err(WindowError::NeverOpens { index, schedule: window.schedule.clone() });
            }
            parsed.push(opens);
        }
        Ok(Self { windows: parsed, cached: Mutex::default() })
    }

    /// Returns whether builds may start at the time `now`. The state is valid until the time that
    /// it names.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> WindowState {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = *cached
            && (cached.from..cached.until).contains(&now)
        {
            return cached.state;
        }
        let (state, valid_until) = self.find_state(now);
        *cached = valid_until.map(|until| CachedState { from: now, until, state });
        state
    }

    /// Returns the state at the time `now`, and until when it is known to be valid.
    fn find_state(&self, now: Timestamp) -> (WindowState, Option<Timestamp>) {
        if self.windows.is_empty() {
            return (WindowState::Unrestricted, None);
        }
        let Some(mut closes) = self.open_until(now) else {
            let opens = self.windows.iter().filter_map(|window| window.next_start(now)).min();
            return (WindowState::Closed { opens }, opens);
        };
        let horizon = now.saturating_add(JOIN_HORIZON).unwrap_or(Timestamp::MAX);
        for _ in 0..MAX_JOINED {
            if closes >= horizon {
                break;
            }
            match self.open_until(closes).filter(|later| *later > closes) {
                Some(later) => closes = later,
                None => return (WindowState::Open { closes: Some(closes) }, Some(closes)),
            }
        }
        (WindowState::Open { closes: None }, Some(closes))
    }

    /// Returns when the last of the windows closes that are open at this time or open at it.
    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.windows.iter().filter_map(|window| window.open_until(at)).max()
    }
}

impl ParsedWindow {
    fn parse(index: usize, window: &Window) -> Result<Self, WindowError> {
        let duration = window.duration.signed();
        if !(MIN_DURATION..=MAX_DURATION).contains(&duration) {
            return Err(WindowError::Duration { index, duration: window.duration });
        }
        let schedule = parse_schedule(&window.schedule).map_err(|problem| {
            let schedule = window.schedule.chars().take(MAX_SCHEDULE_LENGTH).collect();
            WindowError::Schedule { index, schedule, problem }
        })?;
        let zones = TimeZoneDatabase::bundled();
        let zone = zones.get(&window.time_zone).map_err(|_| WindowError::TimeZone {
            index,
            zone: window.time_zone.chars().take(64).collect(),
            example: similar_zone(&zones, &window.time_zone),
        })?;
        Ok(Self { schedule, duration, zone })
    }

    /// Returns when this window closes, if it is open at this time or opens at it.
    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        let earliest = at.saturating_sub(self.duration).ok()?;
        self.last_start(earliest, at)?.checked_add(self.duration).ok()
    }

    /// Returns the last start after `after` and not after `until`.
    ///
    /// This is a binary search, because a window may start every minute.
    fn last_start(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let from = |time| self.next_start(time).filter(|start| *start <= until);
        if let Some(start) = until.checked_sub(SignedDuration::from_nanos(1)).ok().and_then(from) {
            return Some(start);
        }
        let (mut found, mut none_after) = (from(after)?, until);
        loop {
            let span = none_after.duration_since(found);
            if span < SignedDuration::from_mins(1) {
                return Some(found);
            }
            let middle = found.checked_add(span / 2).ok()?;
            match from(middle) {
                Some(start) => found = start,
                None => none_after = middle,
            }
        }
    }

    /// Returns the next start after this time, within four years.
    ///
    /// Between two clock changes the wall clock shows the time plus a constant offset. The schedule
    /// is evaluated for one such span after the other.
    fn next_start(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        for _ in 0..MAX_CLOCK_CHANGES {
            let offset = SignedDuration::from_secs(self.zone.to_offset(from).seconds().into());
            // The time that the wall clock shows, as if it were UTC.
            let mut wall_clock = from.checked_add(offset).ok()?;
            if from > after {
                // A start at the moment of the change counts.
                wall_clock = wall_clock.checked_sub(SignedDuration::from_nanos(1)).ok()?;
            }
            let wall_clock = self.next_wall_clock_start(wall_clock)?;
            let start = wall_clock.checked_sub(offset).ok()?;
            let Some(change) =
                self.zone.following(from).next().filter(|change| change.timestamp() <= start)
            else {
                return Some(start);
            };
            let changed_to = SignedDuration::from_secs(change.offset().seconds().into());
            if wall_clock < change.timestamp().checked_add(changed_to).ok()? {
                // The clock skips this start, so that it happens at the change.
                return Some(change.timestamp());
            }
            from = change.timestamp();
        }
        None
    }

    /// Returns the next start after this time, within four years, for a clock that never changes.
    fn next_wall_clock_start(&self, after: Timestamp) -> Option<Timestamp> {
        if after.as_second() > MAX_SEARCH_SECOND {
            return None;
        }
        self.schedule.find_next(MakeTimestamp(after)).ok().map(|time| time.timestamp())
    }

    /// Returns whether the schedule names a date that exists.
    fn ever_opens(&self) -> bool {
        let years = SAMPLE_YEARS
            .iter()
            .filter_map(|year| Timestamp::from_second((year - 1970) * 31_556_952).ok());
        years.into_iter().any(|year| self.next_wall_clock_start(year).is_some())
    }
}

/// Parses a cron expression of five fields. An error is a clause that says what is wrong.
fn parse_schedule(schedule: &str) -> Result<Crontab, String> {
    if schedule.len() > MAX_SCHEDULE_LENGTH {
        return Err(format!("it has more than {MAX_SCHEDULE_LENGTH} characters"));
    }
    // The library would read a sixth field as a time zone, which has a field of its own here.
    let fields = schedule.split_ascii_whitespace().count();
    if fields != 5 {
        return Err(format!("it has {fields} fields"));
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(schedule, options).map_err(|error| {
        // Only the last line says what is wrong. The lines before it point at the place with a
        // caret, which means nothing within a sentence.
        let error = error.to_string();
        error.lines().last().unwrap_or_default().trim_start_matches([' ', '^']).into()
    })
}

/// Returns the zone that a name probably means: the one with the same city, or else an example.
fn similar_zone(zones: &TimeZoneDatabase, name: &str) -> String {
    let city = name.rsplit('/').next().unwrap_or_default().replace(' ', "_");
    let found = zones.available().find(|zone| {
        let zone = zone.as_str();
        zone.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(&city))
    });
    found.map_or_else(|| "Europe/Berlin".into(), |zone| zone.to_string())
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
