use groundswell::builds::dockerfile::{Instruction, parse_instructions};

use crate::lint::commands::{
    PackageManager, PipCache, dependency_command, installed_packages, left_cache,
};

fn instruction(run: &str) -> Instruction {
    let (instructions, _) = parse_instructions(&format!("RUN {run}\n")).expect("instructions");
    instructions[0].clone()
}

fn packages(run: &str) -> String {
    let names = installed_packages(&instruction(run)).into_iter().map(|package| package.name);
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn installed_packages_are_found() {
    for (run, expected) in [
        ("apt-get update && apt-get install -y --no-install-recommends curl=8.1 git", "curl git"),
        ("set -eux; \\\n  A=x apt-get -y install \\\n   make \\\n  # why\n  gcc", "make gcc"),
        ("apk add --no-cache --virtual .build gcc 'musl-dev>1.2'", "gcc musl-dev"),
        ("sudo dnf install -y openssl && dnf clean all", "openssl"),
        ("<<EOF\napt-get install -y jq\nEOF", "jq"),
        ("[\"apt-get\", \"install\", \"tree\"]", "tree"),
        ("[\"/bin/bash\", \"-c\", \"apt-get install tree\"]", "tree"),
        ("/usr/bin/apt install $PACKAGES ./local.deb vim", "vim"),
        ("apt-get remove curl; echo apt-get install curl", ""),
        ("pip install flask", ""),
    ] {
        assert_eq!(packages(run), expected, "{run}");
    }
}

/// What is no package of the command.
#[test]
fn options_comments_and_data_are_no_packages() {
    for (run, expected) in [
        ("apt-get -o Acquire::Retries=3 install -y -t bookworm-backports curl", "curl"),
        ("apt-get install -y curl # and git later", "curl"),
        ("apk add -X https://r.example/edge --no-cache curl", "curl"),
        ("apk add -t .b gcc", "gcc"),
        ("dnf install -y --enablerepo crb --setopt install_weak_deps=False curl", "curl"),
        ("cat <<EOF > /usr/bin/setup\napt-get install -y vim\nEOF", ""),
        ("echo 'apt-get install -y vim' > /setup.sh", ""),
        ("apt-get install -y curl > /dev/null 2>&1", "curl"),
        ("echo \"a; apt-get install b\"", ""),
        ("dnf install -y https://r.example/x.rpm curl", "curl"),
    ] {
        assert_eq!(packages(run), expected, "{run}");
    }
}

#[test]
fn packages_that_are_removed_again_are_not_installed() {
    for (removal, is_kept) in [
        ("apt-get install -y gcc && apt-get purge -y gcc", false),
        ("apt-get install -y gcc && apt-get -y purge gcc", false),
        ("apt-get install -y gcc && apt purge -y gcc", false),
        ("apt-get install -y gcc && apt-get purge -y $BUILD", false),
        ("apt-get install -y gcc; apt-mark auto '.*'; apt-get purge -y --auto-remove", false),
        ("apt-get install -y gcc; apt-mark auto gcc; apt-get autoremove -y", false),
        ("apt-get install -y gcc; apt-mark auto make; apt-get autoremove -y", true),
        ("apt-get install -y gcc; apt-get purge -y --auto-remove", true),
        ("apt-get install -y gcc && apt-get purge -y make", true),
        ("apt-get purge -y gcc && apt-get install -y gcc", true),
        ("apk add --virtual .b gcc && apk del .b", false),
        ("apk add -t .b gcc && apk del .b", false),
        ("apk add --virtual=.b gcc && apk --purge del .b", false),
        ("apk add -t .b gcc && apk del .c", true),
        ("apk add gcc && apk del --no-network gcc", false),
        ("yum install -y gcc && yum remove -y gcc", false),
        ("dnf install -y gcc && dnf -y remove gcc", false),
        ("dnf install -y gcc && dnf history undo -y last", false),
        ("dnf install -y gcc && dnf history list", true),
    ] {
        let expected = if is_kept { "gcc" } else { "" };
        assert_eq!(packages(removal), expected, "{removal}");
    }
}

#[test]
fn caches_are_left_unless_they_are_cleaned() {
    use PackageManager::{Apk, Apt, Dnf, Pip};
    let apt = "apt-get install -y curl";
    for (cleaning, is_left) in [
        ("true", true),
        ("rm -rf /var/lib/apt/lists/*", false),
        ("rm -rf /var/lib/apt", false),
        ("rm -rf /var/lib/apt/*", false),
        ("rm -rf /var/lib/{apt,dpkg}/lists /tmp/*", false),
        ("rm -rf /var/lib/{apt/lists,cache}/*", false),
        ("rm -rf /var/lib/{a,b}", true),
        ("rm -rf /var/lib/apt2", true),
        ("rm -rf /tmp/x", true),
        ("rm -rf $X", true),
        ("find /var/lib/apt/lists -type f -delete", false),
        ("find /var/lib/apt/lists -type f -exec rm {} +", false),
        ("find /var/lib/apt/lists -type f", true),
        ("apt-get dist-clean", false),
        ("apt-get clean", true),
        ("echo rm -rf /var/lib/apt/lists", true),
    ] {
        let run = instruction(&format!("{apt} && {cleaning}"));
        assert_eq!(left_cache(&run, PipCache::Kept), is_left.then_some(Apt), "{cleaning}");
    }
    for (run, left) in [
        ("rm -rf /var/lib/apt/lists/* && apt-get install -y curl", Some(Apt)),
        ("--mount=type=tmpfs,target=/var/lib/apt/lists apt-get install -y curl", None),
        ("apk add curl", Some(Apk)),
        ("apk add --no-network --virtual .r $deps", None),
        ("apk --no-cache add curl", None),
        ("apk add curl && rm -rf /var/cache/apk/*", None),
        ("dnf install -y curl", Some(Dnf)),
        ("dnf install -y curl && dnf -y clean all", None),
        ("dnf install -y curl && rm -rf /var/cache/dnf", None),
        ("dnf install -y curl && rm -rf /var/cache/*", None),
        ("pip install flask", Some(Pip)),
        ("python3 -m pip install flask", Some(Pip)),
        ("pip install --no-cache-dir=true flask", None),
        ("PIP_NO_CACHE_DIR=1 pip install flask", None),
        ("export PIP_NO_CACHE_DIR=1; pip install flask", None),
        ("PIP_NO_CACHE_DIR=1 true; pip install flask", Some(Pip)),
        ("pip install flask && rm -rf /root/.cache", None),
        ("pip install flask && rm -rf ~/.cache/pip", None),
        ("pip install flask && rm -rf \"${HOME}/.cache\"", None),
        ("pip install flask && pip cache purge", None),
    ] {
        assert_eq!(left_cache(&instruction(run), PipCache::Kept), left, "{run}");
    }
    assert_eq!(left_cache(&instruction("pip install flask"), PipCache::Off), None);
}

#[test]
fn commands_that_install_dependencies_are_found() {
    for (run, expected) in [
        ("npm   ci", Some("npm ci")),
        ("cd app && npm install --production", Some("npm install")),
        ("pip install -r requirements.txt", Some("pip install")),
        ("go mod download", Some("go mod")),
        ("yarn --frozen-lockfile", Some("yarn")),
        ("npm install -g npm@11", None),
        ("npm install express", None),
        ("echo \"run npm install\"", None),
        ("pip install flask", None),
    ] {
        assert_eq!(dependency_command(&instruction(run)).as_deref(), expected, "{run}");
    }
}
