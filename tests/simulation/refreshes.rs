//! Families whose images are refreshed by age.

use crate::{
    random::Random,
    script::{Script, Step, StepAction},
};

/// How many of a thousand seeds without a scenario have images that are refreshed by age.
const REFRESH_SEEDS: u32 = 200;

/// Has images of some seeds refreshed by age until the faults stop: from then on the system is to
/// come to rest.
pub fn add(seed: u64, script: &mut Script) {
    let random = &mut Random::of(seed, "refreshes");
    if !random.chance(REFRESH_SEEDS) {
        return;
    }
    let families = script.families.iter().filter(|_| random.chance(700));
    let names: Vec<String> = families.map(|family| family.name.clone()).collect();
    for name in names {
        let half = u64::try_from(script.end.as_millis() / 2).expect("a short script");
        let at = random.pause(0..half);
        let every = random.seconds(120..1500);
        script.steps.push(Step { at, action: StepAction::Refresh(name.clone(), every) });
        script.steps.push(Step { at: script.end, action: StepAction::Refresh(name, 0) });
    }
    script.steps.sort_by_key(|step| step.at);
}
