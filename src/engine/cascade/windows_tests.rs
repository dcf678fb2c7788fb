//! Windows across clock changes, and against a slow oracle that checks every minute.

use proptest::prelude::*;

use super::*;

fn window(schedule: &str, duration: &str, zone: &str) -> Window {
    Window {
        schedule: schedule.into(),
        duration: duration.parse().expect(duration),
        time_zone: zone.into(),
    }
}

fn at(time: &str) -> Timestamp {
    time.parse().expect(time)
}

fn state(windows: &[Window], now: Timestamp) -> Result<WindowState, WindowError> {
    Ok(Windows::parse(windows)?.state(now))
}

fn state_at(window: &Window, now: &str) -> WindowState {
    state(std::slice::from_ref(window), at(now)).expect("a window")
}

fn open(closes: &str) -> WindowState {
    WindowState::Open { closes: Some(at(closes)) }
}

fn closed(opens: &str) -> WindowState {
    WindowState::Closed { opens: Some(at(opens)) }
}

/// Returns the next starts after a time, as the zone's wall clock shows them.
fn starts(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let parsed = ParsedWindow::parse(0, &window(schedule, "1m", zone)).expect("a window");
    let mut time = at(after);
    let shown = (0..count).map(|_| {
        time = parsed.next_start(time).expect("a start");
        time.to_zoned(parsed.zone.clone()).strftime("%d %H:%M%:z").to_string()
    });
    shown.collect()
}

#[test]
fn without_windows_builds_always_start() {
    assert_eq!(state(&[], at("2026-01-01T00:00:00Z")), Ok(WindowState::Unrestricted));
}

#[test]
fn a_window_opens_and_closes_by_its_zone() {
    let night = window("0 22 * * *", "6h", "Europe/Berlin");
    assert_eq!(state_at(&night, "2026-01-10T20:59:59Z"), closed("2026-01-10T21:00:00Z"));
    assert_eq!(state_at(&night, "2026-01-10T21:00:00Z"), open("2026-01-11T03:00:00Z"));
    assert_eq!(state_at(&night, "2026-01-11T02:59:59.999Z"), open("2026-01-11T03:00:00Z"));
    assert_eq!(state_at(&night, "2026-01-11T03:00:00Z"), closed("2026-01-11T21:00:00Z"));
    // An hour earlier in summer; India's offset has half an hour.
    assert_eq!(state_at(&night, "2026-07-10T20:00:00Z"), open("2026-07-11T02:00:00Z"));
    assert_eq!(
        state_at(&window("0 22 * * *", "1h", "Asia/Kolkata"), "2026-01-10T17:00:00Z"),
        open("2026-01-10T17:30:00Z")
    );
    assert_eq!(
        state_at(&window("0 0 * * 1-5", "1h", "UTC"), "2026-01-10T00:00:00Z"),
        closed("2026-01-12T00:00:00Z")
    );
}

#[test]
fn a_start_that_the_clock_skips_happens_at_the_change() {
    assert_eq!(
        starts("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        ["28 02:30+01:00", "29 03:00+02:00", "30 02:30+02:00"]
    );
    assert_eq!(
        starts("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
        ["08 03:00-04:00", "09 02:30-04:00"]
    );
    // Several skipped starts and the one at the change are one.
    assert_eq!(
        starts("*/20 2-3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4),
        ["29 03:00+02:00", "29 03:20+02:00", "29 03:40+02:00", "30 02:00+02:00"]
    );
    // Midnight itself is skipped in Egypt.
    assert_eq!(
        starts("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", 2),
        ["24 01:00+03:00", "25 00:00+03:00"]
    );
    // Samoa skipped a whole day.
    assert_eq!(
        starts("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00Z", 1),
        ["31 00:00+14:00"]
    );
    // Lord Howe's clock goes forward by half an hour, from 02:00 to 02:30.
    assert_eq!(
        starts("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
        ["04 02:30+11:00", "05 02:15+11:00"]
    );
}

#[test]
fn a_start_that_the_clock_shows_twice_happens_both_times() {
    assert_eq!(
        starts("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3),
        ["25 02:30+02:00", "25 02:30+01:00", "26 02:30+01:00"]
    );
    assert_eq!(
        starts("0 * * * *", "Europe/Berlin", "2026-10-24T22:30:00Z", 4),
        ["25 01:00+02:00", "25 02:00+02:00", "25 02:00+01:00", "25 03:00+01:00"]
    );
    assert_eq!(
        starts("45 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 3),
        ["01 01:45-04:00", "01 01:45-05:00", "02 01:45-05:00"]
    );
    // Lord Howe's goes back by half an hour, from 02:00 to 01:30.
    assert_eq!(
        starts("*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", 6),
        [
            "05 01:00+11:00",
            "05 01:15+11:00",
            "05 01:30+11:00",
            "05 01:45+11:00",
            "05 01:30+10:30",
            "05 01:45+10:30"
        ]
    );
}

#[test]
fn a_duration_is_elapsed_time() {
    let night = window("0 22 * * *", "6h", "Europe/Berlin");
    // 05:00 in summer time, and 03:00 in winter time.
    assert_eq!(state_at(&night, "2026-03-28T22:00:00Z"), open("2026-03-29T03:00:00Z"));
    assert_eq!(state_at(&night, "2026-10-24T23:00:00Z"), open("2026-10-25T02:00:00Z"));
    // Opens at 02:30 twice, an hour apart: it stays open until the second has closed.
    let repeated = window("30 2 * * *", "1h", "Europe/Berlin");
    assert_eq!(state_at(&repeated, "2026-10-25T00:30:00Z"), open("2026-10-25T02:30:00Z"));
}

#[test]
fn windows_that_overlap_or_adjoin_are_joined() {
    let evening = window("0 20 * * *", "2h", "UTC");
    let night = window("0 22 * * *", "4h", "UTC");
    let late = window("30 1 * * *", "1h", "UTC");
    let lunch = window("0 12 * * *", "1h", "UTC");
    let all = [lunch, night, evening, late];
    let now = |time: &str| state(&all, at(time)).expect("windows");
    assert_eq!(now("2026-05-01T20:30:00Z"), open("2026-05-02T02:30:00Z"));
    assert_eq!(now("2026-05-02T02:30:00Z"), closed("2026-05-02T12:00:00Z"));
    assert_eq!(now("2026-05-02T12:59:59Z"), open("2026-05-02T13:00:00Z"));
    assert_eq!(now("2026-05-02T13:00:00Z"), closed("2026-05-02T20:00:00Z"));
    // Six days in a row, and then a day without a window.
    let week = window("0 0 * * 1-6", "24h", "UTC");
    assert_eq!(state_at(&week, "2026-05-04T00:00:00Z"), open("2026-05-10T00:00:00Z"));
    assert_eq!(
        state_at(&window("* 2-4 * * *", "1m", "UTC"), "2026-05-04T02:00:30Z"),
        open("2026-05-04T05:00:00Z")
    );
}

#[test]
fn a_window_that_never_closes_has_no_end() {
    for (schedule, duration) in
        [("* * * * *", "168h"), ("* * * * *", "1m"), ("0 0 * * *", "24h"), ("0 0 * * 0", "168h")]
    {
        let always = window(schedule, duration, "UTC");
        assert_eq!(
            state_at(&always, "2026-05-04T02:00:30Z"),
            WindowState::Open { closes: None },
            "{schedule} {duration}"
        );
    }
}

#[test]
fn rare_starts_are_found_and_those_beyond_the_calendar_are_not() {
    let leap = window("0 0 29 2 *", "1h", "Europe/Berlin");
    assert_eq!(state_at(&leap, "2026-05-04T02:00:00Z"), closed("2028-02-28T23:00:00Z"));
    assert_eq!(
        state_at(&leap, "2097-01-01T00:00:00Z"),
        WindowState::Closed { opens: None },
        "2100 is no leap year"
    );
    for end in [Timestamp::MIN, Timestamp::MAX] {
        assert!(state(std::slice::from_ref(&leap), end).is_ok());
        assert!(state(&[window("* * * * *", "168h", "Pacific/Apia")], end).is_ok());
    }
}

#[test]
fn an_invalid_window_is_named_with_what_to_write_instead() {
    let verified = window("0 22 * * *", "6h", "UTC");
    let problem = |bad: Window| {
        Windows::parse(&[verified.clone(), bad]).expect_err("a bad window").to_string()
    };
    for (schedule, part) in [
        ("0 22 * *", "it has 4 fields"),
        ("0 22 * * * Europe/Berlin", "it has 6 fields"),
        ("0 0 22 * * *", "it has 6 fields"),
        ("@daily", "it has 1 fields"),
        ("61 * * * *", "value must be in range 0..=59; found 61"),
        ("5-1 * * * *", "range must be in ascending order; found 5-1"),
        ("*/0 * * * *", "step must be greater than 0"),
        ("0 22 * * MON-FOO", "malformed expression"),
        ("é 22 * * *", "malformed expression"),
        (&"1,".repeat(99), "more than 100 characters"),
    ] {
        let message = problem(window(schedule, "1h", "UTC"));
        assert!(message.starts_with("spec.policy.windows[1].schedule: `"), "{message}");
        assert!(message.contains(part) && message.contains("as in `0 22 * * 1-5`"), "{message}");
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
    }
    for schedule in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30-31 FEB *", "0 0 */30 * 1#2"] {
        let message = problem(window(schedule, "1h", "UTC"));
        assert!(
            message.starts_with("spec.policy.windows[1].schedule: `")
                && message.contains("matches no date"),
            "{message}"
        );
    }
    let message = problem(window("0 22 * * *", "1h", "berlin"));
    assert!(
        message
            .starts_with("spec.policy.windows[1].timeZone: the time zone `berlin` does not exist"),
        "{message}"
    );
    assert!(message.ends_with("for example `Europe/Berlin`"), "{message}");
    assert!(
        problem(window("0 22 * * *", "1h", "America/Los Angeles"))
            .ends_with("`America/Los_Angeles`")
    );
    for duration in ["59s", "168h1s"] {
        let message = problem(window("0 22 * * *", duration, "UTC"));
        assert!(message.starts_with("spec.policy.windows[1].duration: "), "{message}");
    }
}

#[test]
fn dates_that_exist_are_accepted_however_rare() {
    for schedule in [
        "0 0 29 2 *",
        "0 0 29 2 */7",
        "0 0 31 * *",
        "0 0 L * *",
        "0 0 15W * *",
        "0 0 * * 5#5",
        "0 0 * * 5L",
    ] {
        assert!(Windows::parse(&[window(schedule, "1h", "UTC")]).is_ok(), "{schedule}");
    }
}

/// Returns whether a window starts in this minute: the clock shows a start, or is set forward over
/// one.
fn starts_at(window: &ParsedWindow, minute: Timestamp) -> bool {
    let second = SignedDuration::from_secs(1);
    let shown = |time: Timestamp| {
        time + SignedDuration::from_secs(window.zone.to_offset(time).seconds().into())
    };
    let matches = |shown: Timestamp| window.schedule.matches(MakeTimestamp(shown)).expect("a time");
    let mut skipped = shown(minute - second) + second;
    while skipped < shown(minute) {
        if matches(skipped) {
            return true;
        }
        skipped += SignedDuration::from_mins(1);
    }
    matches(shown(minute))
}

fn fields() -> impl Strategy<Value = String> {
    let minutes = prop::sample::select(vec!["0", "30", "*/20", "15,45", "59", "0-10/5"]);
    let hours = prop::sample::select(vec!["*", "0", "1", "2", "1-3", "0-2", "*/6", "22", "0,12"]);
    let days = prop::sample::select(vec![
        "* * *", "* * *", "* * *", "* * 0", "* * 6,0", "29 3 *", "1-7 * *",
    ]);
    (minutes, hours, days).prop_map(|(minutes, hours, days)| format!("{minutes} {hours} {days}"))
}

/// Zones, each with a time at which its clock changes.
const CHANGES: [(&str, &str); 10] = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00:00Z"),
    ("Africa/Cairo", "2026-10-29T21:00:00Z"),
    ("America/Santiago", "2026-09-06T04:00:00Z"),
    ("Asia/Kolkata", "2026-06-15T00:00:00Z"),
];

/// Windows of one zone, one window of another, and a time close to a clock change of the first.
fn windows_near_a_change() -> impl Strategy<Value = (Vec<Window>, Timestamp)> {
    let window = (fields(), prop_oneof![1..120_u32, 1..1800_u32], 0..CHANGES.len());
    (prop::collection::vec(window, 1..4), 0..CHANGES.len(), -6 * 3600..6 * 3600_i64).prop_map(
        |(windows, near, seconds)| {
            let windows =
                windows.into_iter().enumerate().map(|(index, (schedule, minutes, other))| Window {
                    schedule,
                    duration: crate::api::Duration::from_secs(minutes * 60),
                    time_zone: CHANGES[if index == 2 { other } else { near }].0.into(),
                });
            (windows.collect(), at(CHANGES[near].1) + SignedDuration::from_secs(seconds))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_an_oracle_that_checks_every_minute(
        (windows, now) in windows_near_a_change(),
    ) {
        let parsed = Windows::parse(&windows).expect("windows");
        let first = Timestamp::from_second(now.as_second().div_euclid(60) * 60 - 1800 * 60)
            .expect("a time");
        let minutes = 1800 + 2 * 1440;
        // Per minute, until when the windows that have opened so far stay open.
        let mut until = Timestamp::MIN;
        let mut open_until = Vec::with_capacity(minutes);
        let mut openings = Vec::new();
        for minute in (0..minutes)
            .map(|minute| first + SignedDuration::from_mins(i64::try_from(minute).expect("few")))
        {
            for window in parsed.windows.iter().filter(|window| starts_at(window, minute)) {
                until = until.max(minute + window.duration);
                openings.push(minute);
            }
            open_until.push((minute, until));
        }
        let open = |at: usize| open_until[at].1 > open_until[at].0;
        let later = |wanted: bool| {
            (1801..minutes).find(|at| open(*at) == wanted).map(|at| open_until[at].0)
        };
        match parsed.state(now) {
            WindowState::Unrestricted => prop_assert!(false, "there are windows"),
            WindowState::Open { closes } => {
                prop_assert!(open(1800), "not open");
                match later(false) {
                    Some(end) => {
                        let joined =
                            openings.iter().filter(|start| (now..end).contains(start)).count();
                        prop_assert!(
                            closes == Some(end) || closes.is_none() && joined >= MAX_JOINED,
                            "{:?}, not {}",
                            closes,
                            end
                        );
                    }
                    None => {
                        prop_assert!(
                            closes.is_none_or(|closes| closes > open_until[minutes - 1].0)
                        );
                    }
                }
            }
            WindowState::Closed { opens } => {
                prop_assert!(!open(1800), "not closed");
                match later(true) {
                    Some(start) => prop_assert_eq!(opens, Some(start)),
                    None => {
                        prop_assert!(
                            opens.is_none_or(|opens| opens > open_until[minutes - 1].0)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_cached_state_equals_the_computed_one(
        (windows, now) in windows_near_a_change(),
        minutes in prop::collection::vec(-1440..1440_i64, 1..8),
    ) {
        let cached = Windows::parse(&windows).expect("windows");
        for minutes in minutes {
            let now = now + SignedDuration::from_mins(minutes);
            let (state, (found, _)) = (cached.state(now), cached.find_state(now));
            // Closer to the end, an end is found that was too far away before.
            let nearer = state == WindowState::Open { closes: None }
                && matches!(found, WindowState::Open { .. });
            prop_assert!(state == found || nearer, "{:?} is cached, {:?} found", state, found);
        }
    }

    #[test]
    fn no_text_breaks_the_parser(
        schedule in "\\PC{0,20}|[0-9*/,LW# -]{0,40}|([0-9*/,LW#-]{1,6} ){4}[0-9*/,LW#-]{1,6}",
        zone in "\\PC{0,12}",
    ) {
        let window =
            Window { schedule, duration: crate::api::Duration::from_secs(60), time_zone: zone };
        let in_utc = Window { time_zone: "UTC".into(), ..window.clone() };
        for window in [window, in_utc] {
            if let Ok(windows) = Windows::parse(std::slice::from_ref(&window)) {
                let _ = windows.state(at("2026-05-04T02:00:00Z"));
            }
        }
    }
}
