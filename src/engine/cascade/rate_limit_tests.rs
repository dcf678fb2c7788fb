//! The rate limit, and the starts that are recorded for it.

use proptest::prelude::*;

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_span_has_more_starts_than_the_limit(
        limit in 1..8_i32,
        per in 1..60_i64,
        tries in prop::collection::vec(0..20_i64, 1..80),
    ) {
        let per_span = SignedDuration::from_secs(per);
        let (mut starts, mut now) = (Vec::new(), 1000);
        for pause in tries {
            now += pause;
            let before = rate_allowance(&starts, limit, per_span, second(now));
            prop_assert_eq!(before.free == 0, before.frees_at.is_some());
            if let Some(next) = before.frees_at {
                prop_assert!(next > second(now) && next <= second(now + per));
                prop_assert_eq!(
                    rate_allowance(&starts, limit, per_span, next - SignedDuration::from_nanos(1))
                        .free,
                    0
                );
                prop_assert!(
                    rate_allowance(&starts, limit, per_span, next).free > 0,
                    "woken too early"
                );
            }
            starts.extend(std::iter::repeat_n(second(now), before.free.min(3)));
        }
        for start in &starts {
            let within = starts
                .iter()
                .filter(|other| *other >= start && **other < *start + per_span)
                .count();
            prop_assert!(within <= usize::try_from(limit).expect("positive"));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_delays_no_build_for_long(
        back in 0..100_000_i64,
        limit in 1..8_i32,
        per in 1..60_i64,
    ) {
        let starts: Vec<Timestamp> = (0..20).map(second).collect();
        let now = 20 - back;
        let allowance = rate_allowance(&starts, limit, SignedDuration::from_secs(per), second(now));
        prop_assert!(
            allowance
                .frees_at
                .is_none_or(|next| next > second(now) && next <= second(now + 2 * per))
        );
    }
}

#[test]
fn starts_are_recorded_as_long_as_they_count_and_written_only_with_a_new_one() {
    let minute = SignedDuration::from_mins(1);
    let starts = |recorded: &[i64], observed: &[i64], now: i64| -> Vec<i64> {
        let recorded: Vec<Timestamp> = recorded.iter().map(|start| second(*start)).collect();
        let observed = observed.iter().map(|start| second(*start));
        starts_to_record(&recorded, observed, 3, minute, second(now))
            .into_iter()
            .map(Timestamp::as_second)
            .collect()
    };
    assert_eq!(starts(&[], &[10, 20], 30), [20, 10]);
    assert_eq!(starts(&[20, 10], &[10, 20], 500), [20, 10], "nothing new");
    assert_eq!(starts(&[20, 10], &[], 500), [20, 10]);
    assert_eq!(starts(&[20, 10], &[75, 20], 75), [75, 20]);
    assert_eq!(starts(&[20], &[10], 500), [20], "too old to count");
    assert_eq!(starts(&[3, 2, 1], &[4], 5), [4, 3, 2], "no more than the limit are kept");
    assert_eq!(starts(&[], &[70, 5000], 30), [70], "a start in the future: the clock was set back");
}

#[test]
fn the_rate_limit_allows_starts_at_its_rate() {
    let minute = SignedDuration::from_mins(1);
    let starts = [second(30), second(0), second(10)];
    assert_eq!(
        rate_allowance(&[], 3, minute, second(30)),
        RateAllowance { free: 3, frees_at: None }
    );
    assert_eq!(
        rate_allowance(&starts, 5, minute, second(30)),
        RateAllowance { free: 2, frees_at: None }
    );
    assert_eq!(
        rate_allowance(&starts, 3, minute, second(30)),
        RateAllowance { free: 0, frees_at: Some(second(60)) }
    );
    assert_eq!(
        rate_allowance(&starts, 3, minute, second(60)),
        RateAllowance { free: 1, frees_at: None }
    );
    // The limit was lowered: all starts but one must have stopped counting.
    assert_eq!(
        rate_allowance(&starts, 1, minute, second(30)),
        RateAllowance { free: 0, frees_at: Some(second(90)) }
    );
    // The clock was set back by an hour: those starts do not count.
    assert_eq!(
        rate_allowance(&starts, 3, minute, second(-3600)),
        RateAllowance { free: 3, frees_at: None }
    );
    assert_eq!(rate_allowance(&starts, 3, minute, second(-10)).frees_at, Some(second(60)));
    assert_eq!(
        rate_allowance(&[Timestamp::MAX, Timestamp::MIN], 1, minute, Timestamp::MAX).free,
        1
    );
}
