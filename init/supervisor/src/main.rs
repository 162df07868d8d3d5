//! `supervisor`: starts, confines, watches and restarts the services of a node.
//!
//! Three modes in one static binary, so that the code which builds a sandbox is the code that was started:
//! - `supervisor run`: the supervisor itself, started by PID 1;
//! - `supervisor exec-unit <json>`: between fork and exec of a service; confines itself, then becomes the service;
//! - `supervisor probe`: runs inside a unit's sandbox in place of the service and reports what it can do.
//!
//! Nothing is written to a disk but the owner of `/state/<unit>`. After a crash PID 1 kills the cgroup and starts us
//! again; sockets are bound anew and all services start from nothing.

mod apps;
mod bus;
mod cgroup;
mod children;
mod console;
mod devices;
mod journal;
mod launch;
mod logs;
mod machine;
mod notify;
mod paths;
mod pid1;
mod stage;
mod supervise;
mod units;
mod usage;

use std::process::ExitCode;

use paths::Paths;

const USAGE: &str =
    "usage: supervisor run [--run DIR] [--state DIR] [--units DIR] [--cgroup DIR] [--console FILE|-]
       supervisor exec-unit SPEC-JSON
       supervisor probe";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exec-unit", spec] => stage::exec_unit(spec),
        ["probe", rest @ ..] => stage::probe::run(rest),
        [] => run(&[]),
        ["run", options @ ..] => run(options),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &[&str]) -> ExitCode {
    let outcome = Paths::from_options(options).and_then(supervise::run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("macula: supervisor: {e:#}");
            ExitCode::FAILURE
        }
    }
}
