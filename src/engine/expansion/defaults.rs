//! Defaults of Git sources and of strategies.

use crate::api::{GitSource, Image, Source, StrategyRef};

/// Names the strategy of a family that names none.
pub fn fill_family_strategy(strategy: &mut StrategyRef) {
    if strategy.name.is_empty() {
        strategy.name = StrategyRef::DEFAULT_NAME.into();
    }
}

/// Adds to the strategy of an image what its family says about the same strategy. An image that
/// names another strategy has nothing but its own parameters: those of the family are for another.
pub fn fill_strategy(image: &mut Image, of_family: &StrategyRef) {
    let Some(own) = &mut image.strategy else { return };
    if own.name.is_empty() {
        own.name.clone_from(&of_family.name);
    }
    if own.name == of_family.name {
        for (parameter, value) in &of_family.parameters {
            own.parameters.entry(parameter.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Fills what the source of an image leaves out: from the defaults, if there are any, and then with
/// what holds for every family. Sources of other kinds stay as they are.
pub fn fill_source(image: &mut Image, defaults: Option<&GitSource>) {
    if image.source.is_empty() {
        image.source = Source { git: defaults.cloned(), ..Source::default() };
    }
    let Some(git) = &mut image.source.git else { return };
    if let Some(defaults) = defaults {
        fill_git(git, defaults);
    }
    if git.dockerfile.is_empty() {
        git.dockerfile = GitSource::DOCKERFILE.into();
    }
    git.interval = Some(git.interval());
}

fn fill_git(git: &mut GitSource, defaults: &GitSource) {
    for (own, default) in [
        (&mut git.url, &defaults.url),
        (&mut git.revision, &defaults.revision),
        (&mut git.dockerfile, &defaults.dockerfile),
    ] {
        if own.is_empty() {
            own.clone_from(default);
        }
    }
    for (own, default) in
        [(&mut git.include, &defaults.include), (&mut git.exclude, &defaults.exclude)]
    {
        if own.is_empty() {
            own.clone_from(default);
        }
    }
    git.submodules |= defaults.submodules;
    git.lfs |= defaults.lfs;
    git.commit_arg = git.commit_arg.take().or_else(|| defaults.commit_arg.clone());
    git.path = git.path.take().or_else(|| defaults.path.clone());
    git.interval = git.interval.or(defaults.interval);
    // A credential is for a repository. Another one does not get it by accident.
    if git.secret_ref.is_none() && git.url == defaults.url {
        git.secret_ref.clone_from(&defaults.secret_ref);
    }
}
