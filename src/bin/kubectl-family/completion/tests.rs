use super::*;

/// An argument that a command does not have would complete nothing.
#[test]
fn the_arguments_that_take_names_exist() {
    let command = command();
    let completed = command.get_subcommands().flat_map(|command| {
        let arguments = command.get_arguments();
        arguments
            .filter(|one| one.get::<ArgValueCompleter>().is_some())
            .map(move |one| format!("{} {}", command.get_name(), one.get_id()))
    });
    let completed: Vec<String> = completed.collect();
    assert_eq!(
        completed,
        [
            "check family",
            "diff image",
            "layers image",
            "outdated images",
            "status family",
            "graph image",
            "graph focus",
            "impact target",
            "plan moved",
            "why image",
            "history image",
            "history family",
            "logs image",
            "trigger target",
            "retry target",
            "cancel target",
            "force target",
            "hold target",
            "hold upstream",
            "unhold target",
            "unhold upstream",
            "approve family",
            "approve upstream",
            "rollback target",
        ]
    );
}
