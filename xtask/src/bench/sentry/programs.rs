//! Real programs in a running sandbox, their second run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::row::median;
use super::micro::PROGRAM;
use super::party::{How, Party, Place};
use super::{Measured, Unit, Wanted};
use crate::run;

/// What the programs' image holds beside Debian's essential packages.
const PACKAGES: &str = "python3,bash,coreutils,git,gcc,libc6-dev,make,nodejs,golang,redis-server,redis-tools,\
                        default-jre-headless";

/// A program of the table.
struct Program {
    name: &'static str,
    /// How many times what it takes natively.
    goal: f64,
    /// Where it runs.
    folder: &'static str,
    /// Shell commands before each run, not timed.
    before: &'static str,
    command: &'static str,
    /// Shell commands after each run, not timed.
    after: &'static str,
    note: &'static str,
}

const fn program(name: &'static str, goal: f64, command: &'static str) -> Program {
    Program { name, goal, folder: "/tmp", before: "", command, after: "", note: "" }
}

const PROGRAMS: [Program; 8] = [
    program("python_pass", 1.3, "python3 -c pass"),
    Program {
        folder: "/tmp/repository",
        before: "test -d /tmp/repository || cp -a /bench/repository /tmp/repository",
        note: "10,000 files in 100 folders, nothing changed",
        ..program("git_status_10k", 3.0, "git status --porcelain")
    },
    Program {
        before: "rm -rf /tmp/untarred && mkdir /tmp/untarred",
        note: "5,000 files of 2 KiB",
        ..program("untar_5k", 2.5, "tar -xf /bench/files.tar -C /tmp/untarred")
    },
    Program {
        before: "rm -rf /tmp/project && cp -r /bench/project /tmp/project",
        note: "50 files of C, -j2",
        ..program("make_50c", 1.35, "make -s -C /tmp/project -j2")
    },
    program("node_0", 1.3, "node -e 0"),
    Program {
        folder: "/tmp/module",
        before: "test -d /tmp/module || cp -r /bench/module /tmp/module; echo '// changed' >> /tmp/module/main.go",
        note: "main package changed, the rest in the build cache",
        ..program("go_build", 1.3, "go build -o /tmp/module/program")
    },
    Program {
        before: "redis-server --port 0 --unixsocket /tmp/redis.sock --save '' --daemonize yes --dir /tmp > /dev/null; \
                 while ! test -S /tmp/redis.sock; do sleep 0.05; done",
        after: "redis-cli -s /tmp/redis.sock shutdown nosave; rm -f /tmp/redis.sock",
        note: "20,000 GETs by 20 clients, both ends inside, over AF_UNIX",
        ..program("redis_get", 5.0, "redis-benchmark -s /tmp/redis.sock -c 20 -n 20000 -t get -q")
    },
    program("java_version", 1.3, "java -version"),
];

/// The programs' root file system as a tar, built when it is absent.
pub(super) fn archive() -> Result<PathBuf> {
    let folder = run::target()?.join("images");
    let path = folder.join(format!("bench-{}.tar", PACKAGES.len()));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("building a Debian image with {PACKAGES} (some minutes)");
    fs::create_dir_all(&folder).with_context(|| format!("{} can't be made", folder.display()))?;
    let partial = folder.join(format!("partial-bench-{}.tar", std::process::id()));
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--format=tar", "--variant=minbase"]);
    // Java's alternatives make links to their manuals, and fail where the folder is missing.
    mmdebstrap.arg("--essential-hook=mkdir -p \"$1/usr/share/man/man1\"");
    mmdebstrap.arg(format!("--include={PACKAGES}")).arg("bookworm").arg(&partial);
    run::checked(&mut mmdebstrap)?;
    fs::rename(&partial, &path).with_context(|| format!("{} can't be named", path.display()))?;
    Ok(path)
}

/// Files in the repository, the archive and the project.
const REPOSITORY_FILES: usize = 10_000;
const ARCHIVE_FILES: usize = 5_000;
const SOURCES: usize = 50;

/// Puts what the programs work on below `bench` in the root.
pub(super) fn prepare(root: &Path) -> Result<()> {
    let bench = root.join("bench");
    for program in &PROGRAMS {
        let text =
            format!("{}\n{}\n{}\n{}\n", program.folder, program.before, program.command, program.after);
        write(&bench.join("programs").join(program.name), &text)?;
    }
    let repository = bench.join("repository");
    for file in 0..REPOSITORY_FILES {
        write(&repository.join(format!("folder{}/file{file}", file % 100)), &format!("file {file}\n"))?;
    }
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&repository).args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]);
        run::output(git.args(arguments)).map(|_| ())
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message", "all"])?;
    let files = bench.join("files");
    for file in 0..ARCHIVE_FILES {
        write(&files.join(format!("folder{}/file{file}", file % 50)), &"0123456789abcde\n".repeat(128))?;
    }
    run::checked(Command::new("tar").arg("-cf").arg(bench.join("files.tar")).arg("-C").arg(&files).arg("."))?;
    fs::remove_dir_all(&files)?;
    sources(&bench)
}

fn sources(bench: &Path) -> Result<()> {
    let project = bench.join("project");
    let objects: Vec<String> = (0..SOURCES).map(|n| format!("part{n}.o")).collect();
    write(&project.join("Makefile"), &format!("program: {0}\n\tcc -o $@ {0}\n", objects.join(" ")))?;
    for n in 0..SOURCES {
        let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
        for function in 0..20 {
            text.push_str(&format!(
                "int part{n}_{function}(int x) {{ char s[64]; snprintf(s, sizeof s, \"%d\", x); \
                 return atoi(s) * {function} + (int)strlen(s); }}\n"
            ));
        }
        if n == 0 {
            text.push_str("int main(void) { return part0_0(0); }\n");
        }
        write(&project.join(format!("part{n}.c")), &text)?;
    }
    let module = bench.join("module");
    write(&module.join("go.mod"), "module example\n\ngo 1.19\n")?;
    write(
        &module.join("main.go"),
        "package main\n\nimport (\n\t\"encoding/json\"\n\t\"fmt\"\n)\n\nfunc main() {\n\tb, _ := json.Marshal([]int{1})\n\tfmt.Println(string(b))\n}\n",
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file has a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("{} can't be made", parent.display()))?;
    fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))
}

/// Most time that a peer's run of a program may take.
const PEERS_LIMIT: Duration = Duration::from_secs(120);

/// Whether any of the programs is wanted.
pub(super) fn any(wanted: &Wanted) -> bool {
    PROGRAMS.iter().any(|program| wanted.wants(program.name))
}

/// Measures the wanted programs with every party, `rounds` times, interleaved. What a peer can't run is in its note.
pub(super) fn measure(
    place: &Place,
    parties: &[Party],
    rounds: usize,
    wanted: &Wanted,
) -> Result<Vec<Measured>> {
    let how = How { large: true, at_most: PEERS_LIMIT, ..How::default() };
    let programs = PROGRAMS.iter().filter(|program| wanted.wants(program.name));
    programs.map(|program| program.measured(place, parties, rounds, how)).collect()
}

impl Program {
    fn measured(&self, place: &Place, parties: &[Party], rounds: usize, how: How) -> Result<Measured> {
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); parties.len()];
        let mut notes = vec![self.note.to_owned(); parties.len()];
        let row = format!("program:{}", self.name);
        for _ in 0..rounds {
            for ((party, times), note) in parties.iter().zip(&mut times).zip(&mut notes) {
                // A peer that refuses it once, or takes too long, is not tried again.
                if party.is_peer() && *note != self.note {
                    continue;
                }
                match party.output(place, &[PROGRAM, &row], how) {
                    Ok(printed) => {
                        let value = printed.split_whitespace().nth(1).context("no figure was printed")?;
                        times.push(value.parse::<f64>().context("an odd figure was printed")? / 1e6);
                    }
                    Err(error) => *note = format!("{}: {error:#}", party.name()),
                }
            }
        }
        let values: Vec<Option<f64>> =
            times.iter_mut().map(|times| (!times.is_empty()).then(|| median(times))).collect();
        Ok(Measured {
            name: self.name.into(),
            unit: Unit::Milliseconds,
            goal: values[0].map(|native| native * self.goal),
            notes,
            values,
        })
    }
}
