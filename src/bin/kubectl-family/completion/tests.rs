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
    let (of_all, completed): (Vec<String>, Vec<String>) =
        completed.partition(|one| one.ends_with(" namespace") || one.ends_with(" context"));
    let of_cluster = command.get_subcommands().filter(|command| {
        command.get_arguments().any(|argument| argument.get_long() == Some("kubeconfig"))
    });
    let of_cluster = of_cluster.count();
    let count = |name: &str| of_all.iter().filter(|one| one.ends_with(name)).count();
    assert_eq!(count(" context"), of_cluster, "{of_all:?}");
    assert_eq!(count(" namespace"), of_cluster + 2, "import and discover write one: {of_all:?}");
    assert_eq!(
        completed,
        [
            "check family",
            "check strategy",
            "diff image",
            "diff builds",
            "layers image",
            "outdated images",
            "status family",
            "graph image",
            "graph focus",
            "impact target",
            "plan moved",
            "plan set",
            "why image",
            "history image",
            "history family",
            "logs image",
            "logs check",
            "logs build",
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
            "rollback to",
        ]
    );
}
