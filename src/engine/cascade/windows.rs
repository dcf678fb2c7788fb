//! Windows: when builds may start, by the clock of a time zone.
//!
//! A schedule is matched against what the zone's clock shows, and this module says what that means
//! where the clock is put forward or back; the cron library only ever sees a clock that does
//! neither. A start that the clock skips is at the moment of the change, and a start that the clock
//! shows twice is one at both times. A window's duration is time that passes: one that opens at
//! 22:00 for 6 hours closes at 05:00 in the night in which the clock is put forward.
//!
//! The rules of all zones are part of the program, so that a schedule means the same on every
//! machine.

use std::sync::{Mutex, PoisonError};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::{
    SignedDuration, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

use crate::api::Window;

/// The most characters of a schedule.
const MAX_SCHEDULE: usize = 100;
/// The shortest and the longest that a window may be open.
const DURATIONS: [SignedDuration; 2] =
    [SignedDuration::from_mins(1), SignedDuration::from_hours(7 * 24)];
/// How far ahead the end of windows that follow one another is looked for: longer than the longest
/// window.
const LOOK_AHEAD: SignedDuration = SignedDuration::from_hours(8 * 24);
/// The most windows that are joined on the way there: to find the next is a walk through the
/// calendar.
const MAX_JOINED: usize = 300;
/// The most changes of a clock that the next start is looked for beyond. The library looks four
/// years ahead, and no zone changes its clock more than four times a year.
const MAX_CHANGES: usize = 20;
/// The years from which a start within four years is looked for: all arrangements of weekdays and
/// leap days there are.
const FIRST_YEARS: [i64; 7] = [2001, 2005, 2009, 2013, 2017, 2021, 2025];
/// A year after which nothing is looked for, for the calendar of the library ends soon after.
const LAST_SECOND: i64 = 250_000_000_000;

/// Whether builds may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// There are no windows, so they always may.
    Unrestricted,
    /// They may.
    Open {
        /// When the last of the windows that overlap or follow one another closes; `None` if that
        /// is eight days or 300 openings away.
        closes: Option<Timestamp>,
    },
    /// They may not.
    Closed {
        /// When the next window opens; `None` if none does within four years.
        opens: Option<Timestamp>,
    },
}

/// Why windows can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    /// The schedule is not a cron expression.
    #[error(
        "spec.policy.windows[{index}].schedule: `{schedule}` is not a cron expression ({problem}); \
         write five fields (minute, hour, day of month, month, day of week), as in `0 22 * * 1-5`"
    )]
    Schedule {
        /// The window's place in the list.
        index: usize,
        /// The schedule.
        schedule: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The schedule is a cron expression for a date that does not exist.
    #[error(
        "spec.policy.windows[{index}].schedule: `{schedule}` never comes, so the window never \
         opens; name a date that exists, or `*` as the day of month"
    )]
    Never {
        /// The window's place in the list.
        index: usize,
        /// The schedule.
        schedule: String,
    },
    /// There is no such time zone.
    #[error(
        "spec.policy.windows[{index}].timeZone: there is no time zone `{zone}`; write a name of \
         the IANA database, for example `{example}`"
    )]
    TimeZone {
        /// The window's place in the list.
        index: usize,
        /// The name.
        zone: String,
        /// A name that exists: one that is likely meant, if there is one.
        example: String,
    },
    /// The window is open for too short or too long.
    #[error("spec.policy.windows[{index}].duration: {duration} is not between 1m and 168h")]
    Duration {
        /// The window's place in the list.
        index: usize,
        /// The duration.
        duration: crate::api::Duration,
    },
}

/// Windows that were read: whoever asks often reads them once per generation of the spec.
#[derive(Debug)]
pub struct Windows {
    openings: Vec<Opening>,
    /// The last answer, from when and until when it holds. To find one, the library walks through
    /// the calendar by hours.
    last: Mutex<Option<(Timestamp, Timestamp, WindowState)>>,
}

/// A window that was read.
#[derive(Clone, Debug)]
struct Opening {
    /// The schedule, for a clock that is never changed.
    schedule: Crontab,
    duration: SignedDuration,
    zone: TimeZone,
}

/// Whether builds may start at the time `now`.
pub fn state(windows: &[Window], now: Timestamp) -> Result<WindowState, WindowError> {
    Ok(Windows::parse(windows)?.state(now))
}

/// Whether these windows can be used: beside what [`Windows::parse`] sees, whether each opens at
/// all.
pub fn check(windows: &[Window]) -> Result<(), WindowError> {
    let parsed = Windows::parse(windows)?;
    for (index, (window, opening)) in windows.iter().zip(&parsed.openings).enumerate() {
        if !opening.comes() {
            return Err(WindowError::Never { index, schedule: window.schedule.clone() });
        }
    }
    Ok(())
}

impl Windows {
    /// Reads windows. An error names the first that can't be used, its field, and what to write
    /// instead.
    pub fn parse(windows: &[Window]) -> Result<Self, WindowError> {
        let openings =
            windows.iter().enumerate().map(|(index, window)| Opening::parse(index, window));
        Ok(Self { openings: openings.collect::<Result<_, _>>()?, last: Mutex::default() })
    }

    /// Whether builds may start at the time `now`. The answer holds until the time that it names.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> WindowState {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, until, state)) = *last
            && (from..until).contains(&now)
        {
            return state;
        }
        let (state, until) = self.found(now);
        *last = until.map(|until| (now, until, state));
        state
    }

    /// Whether builds may start at the time `now`, and until when that answer is known to hold.
    fn found(&self, now: Timestamp) -> (WindowState, Option<Timestamp>) {
        if self.openings.is_empty() {
            return (WindowState::Unrestricted, None);
        }
        let Some(mut closes) = self.open_until(now) else {
            let opens = self.openings.iter().filter_map(|opening| opening.next(now)).min();
            return (WindowState::Closed { opens }, opens);
        };
        let horizon = now.saturating_add(LOOK_AHEAD).unwrap_or(Timestamp::MAX);
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

    /// When the last window closes of those that are open at the time or open with it.
    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.openings.iter().filter_map(|opening| opening.open_until(at)).max()
    }
}

impl Opening {
    fn parse(index: usize, window: &Window) -> Result<Self, WindowError> {
        let duration = window.duration.signed();
        let [shortest, longest] = DURATIONS;
        if duration < shortest || duration > longest {
            return Err(WindowError::Duration { index, duration: window.duration });
        }
        let schedule = parse_schedule(&window.schedule).map_err(|problem| {
            let schedule = window.schedule.chars().take(MAX_SCHEDULE).collect();
            WindowError::Schedule { index, schedule, problem }
        })?;
        let zones = TimeZoneDatabase::bundled();
        let zone = zones.get(&window.time_zone).map_err(|_| WindowError::TimeZone {
            index,
            zone: window.time_zone.chars().take(64).collect(),
            example: likely_zone(&zones, &window.time_zone),
        })?;
        Ok(Self { schedule, duration, zone })
    }

    /// When this window closes, if it is open at the time or opens with it.
    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        let earliest = at.saturating_sub(self.duration).ok()?;
        self.last(earliest, at)?.checked_add(self.duration).ok()
    }

    /// The last start after `after` and not after `until`. By halves, for there may be one every
    /// minute.
    fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let from = |time| self.next(time).filter(|start| *start <= until);
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

    /// The next start after the time, within four years.
    ///
    /// Between two changes of the clock, what it shows is the time plus an offset, and there the
    /// schedule is followed.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        for _ in 0..MAX_CHANGES {
            let offset = SignedDuration::from_secs(self.zone.to_offset(from).seconds().into());
            // What the clock shows, written as a time in UTC.
            let mut shown = from.checked_add(offset).ok()?;
            if from > after {
                // A start at the moment of the change counts.
                shown = shown.checked_sub(SignedDuration::from_nanos(1)).ok()?;
            }
            let shown = self.next_shown(shown)?;
            let start = shown.checked_sub(offset).ok()?;
            let Some(change) =
                self.zone.following(from).next().filter(|change| change.timestamp() <= start)
            else {
                return Some(start);
            };
            let changed_to = SignedDuration::from_secs(change.offset().seconds().into());
            if shown < change.timestamp().checked_add(changed_to).ok()? {
                // The clock skips it.
                return Some(change.timestamp());
            }
            from = change.timestamp();
        }
        None
    }

    /// The next time, after this one and within four years, that a clock shows which is never
    /// changed.
    fn next_shown(&self, after: Timestamp) -> Option<Timestamp> {
        if after.as_second() > LAST_SECOND {
            return None;
        }
        self.schedule.find_next(MakeTimestamp(after)).ok().map(|time| time.timestamp())
    }

    /// Whether the schedule names a date that exists.
    fn comes(&self) -> bool {
        let starts = FIRST_YEARS
            .iter()
            .filter_map(|year| Timestamp::from_second((year - 1970) * 31_556_952).ok());
        starts.into_iter().any(|start| self.next_shown(start).is_some())
    }
}

/// Reads a cron expression of five fields. An error says what is wrong.
fn parse_schedule(schedule: &str) -> Result<Crontab, String> {
    if schedule.len() > MAX_SCHEDULE {
        return Err(format!("it has more than {MAX_SCHEDULE} characters"));
    }
    // The library would take a sixth field for a time zone, which has a place of its own.
    let fields = schedule.split_ascii_whitespace().count();
    if fields != 5 {
        return Err(format!("it has {fields} fields"));
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(schedule, options).map_err(|error| {
        // The last line says what is wrong, below a caret that has no meaning within a sentence.
        let error = error.to_string();
        error.lines().last().unwrap_or_default().trim_start_matches([' ', '^']).into()
    })
}

/// The name of a zone that is likely meant: the one whose city it is.
fn likely_zone(zones: &TimeZoneDatabase, name: &str) -> String {
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
