//! Examples in the help of commands whose arguments are shared or simple. Other commands have
//! theirs next to their arguments.

pub const CHECK: &str = "Examples:
  # Before the installation, in the namespace of the builds
  kubectl family check --pre -n team
  # For a family of the cluster, as JSON
  kubectl family check --family flask -o json
  # For a manifest that is not applied yet, without a pod
  kubectl family check -f family.yaml --no-pod";

pub const STATUS: &str = "Examples:
  # All families of the namespace
  kubectl family status
  # One family with its images, until you press Ctrl-C
  kubectl family status flask --watch
  # The families of all namespaces
  kubectl family status -A";

pub const TRIGGER: &str = "Examples:
  # Build now what is stale, and wait until it is built
  kubectl family trigger flask --wait --timeout 10m
  # The same for one image and all that is built on it
  kubectl family trigger flask/app --subtree";

pub const RETRY: &str = "Examples:
  # Build again what has failed in a family
  kubectl family retry flask
  # The same for one image and all that is built on it
  kubectl family retry flask/app --subtree --reason 'the mirror works again'";

pub const CANCEL: &str = "Examples:
  # Stop all builds of a family
  kubectl family cancel flask
  # Stop the build of an image, and those of what is built on it
  kubectl family cancel flask/app --subtree";

pub const FORCE: &str = "Examples:
  # Rebuild one image, even if it is current
  kubectl family force flask/app --reason 'openssl is fixed'
  # Which images would be rebuilt, without sending anything
  kubectl family force flask --dry-run
  # Rebuild a whole family, and show the progress
  kubectl family force flask --wait --timeout 1h";

pub const HOLD: &str = "Examples:
  # Keep an image at its digest for three days
  kubectl family hold flask/app --for 72h --reason freeze
  # Keep an upstream at its digest until a date
  kubectl family hold flask --upstream debian --until 2026-05-01T12:00:00Z";

pub const UNHOLD: &str = "Examples:
  # End the hold of an image
  kubectl family unhold flask/app
  # End the hold of an upstream
  kubectl family unhold flask --upstream debian";

pub const APPROVE: &str = "Examples:
  # Approve the candidate of an upstream, and wait until it is recorded
  kubectl family approve flask debian --wait";

pub const ROLLBACK: &str = "Examples:
  # Go back to build 41 of an image, and hold it there
  kubectl family rollback flask/app --to 41 --reason 'it leaks memory'
  # The same for all that is built on it, and for the workloads that run these images
  kubectl family rollback flask/base --to 17 --subtree --rollout --reason 'glibc regression'
  # Go forward again
  kubectl family unhold flask/app";

pub const COMPLETION: &str = "Examples:
  # kubectl family in every shell in which kubectl is completed
  kubectl family completion kubectl > ~/.local/bin/kubectl_complete-family
  chmod +x ~/.local/bin/kubectl_complete-family
  # The binary kubectl-family in bash, zsh or fish: add the line to the shell's configuration
  source <(kubectl-family completion bash)
  source <(kubectl-family completion zsh)
  kubectl-family completion fish | source";

pub const MAN: &str = "Examples:
  # Read the man page of a command
  kubectl family man ~/.local/share/man/man1
  man kubectl-family-graph";

pub const VERSION: &str = "Examples:
  kubectl family version";
