//! `site-agent doctor`: everything that can be checked from here, and what to do about it.

use std::path::Path;
use std::process::ExitCode;

use consilium_study::failure::in_words;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::{Config, OnGpuLoss};
use crate::data::Source;
use crate::folder::SiteFolder;
use crate::gpu::Gpu;
use crate::journal;
use crate::program::Program;
use crate::relay::Dialler;
use crate::store::Disk;
use crate::supervise::{RunError, lock};
use crate::vault::identity::{Identity, read_signing_key};
use crate::vault::record;

/// One thing that was looked at.
#[derive(Serialize)]
struct Check {
    what: &'static str,
    well: bool,
    finding: String,
}

/// Prints every check and exits with 0 only if all are well.
pub(crate) fn run(folder: &SiteFolder, json: bool, program: &Program) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    match Config::load(folder) {
        Err(error) => checks.push(Check { what: "site.toml", well: false, finding: error.to_string() }),
        Ok(config) => {
            checks.push(Check { what: "site.toml", well: true, finding: "every key is known".into() });
            let folder = config.folder(folder);
            let running = matches!(lock(&folder), Err(RunError::AlreadyRunning { .. }));
            let word = if running { "an agent runs in this folder" } else { "no agent runs in this folder" };
            checks.push(Check { what: "agent", well: running, finding: word.into() });
            let closed = config.policy.names_no_operator();
            let finding = if closed {
                "policy.operators is empty: every study will be refused, for good"
            } else {
                "names whose studies may run"
            };
            checks.push(Check { what: "policy", well: !closed, finding: finding.into() });
            checks.extend(parts(&folder));
            checks.push(source(&config.source));
            checks.push(cache(&config, &folder));
            checks.push(decoder(program));
            checks.push(device(&config, program));
            checks.extend(connection(&config, &folder));
        }
    }
    for check in &checks {
        if json {
            println!("{}", serde_json::to_string(check)?);
        } else {
            println!("{:<4} {:<12} {}", if check.well { "ok" } else { "BAD" }, check.what, check.finding);
        }
    }
    Ok(if checks.iter().all(|check| check.well) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The agent's own files: complete, unaltered, and readable by their owner only.
fn parts(folder: &SiteFolder) -> Vec<Check> {
    let outcome = |what, result: anyhow::Result<String>| match result {
        Ok(finding) => Check { what, well: true, finding },
        Err(error) => Check { what, well: false, finding: in_words(error.as_ref()) },
    };
    vec![
        outcome(
            "identity",
            Identity::read(&Disk, folder).map(|it| format!("{} of {}", it.site, it.anchor.name)),
        ),
        outcome("signing key", read_signing_key(&Disk, folder).map(|key| key.verifying_key().fingerprint())),
        outcome(
            "journal",
            journal::read(&Disk, &folder.journal())
                .map(|records| format!("{} records, chain unbroken", records.len()))
                .map_err(Into::into),
        ),
        outcome(
            "studies",
            record::read_all(&Disk, folder).map(|all| format!("{} known", all.len())).map_err(Into::into),
        ),
        outcome("privacy", privacy(folder)),
    ]
}

/// Keys may be read by their owner only.
fn privacy(folder: &SiteFolder) -> anyhow::Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    for path in [folder.signing_key(), folder.relay_key()] {
        let mode = std::fs::metadata(&path)?.permissions().mode();
        anyhow::ensure!(
            mode.trailing_zeros() >= 6,
            "others may read {}; run: chmod 600 {}",
            path.display(),
            path.display()
        );
    }
    Ok("keys are readable by their owner only".into())
}

fn source(source: &Source) -> Check {
    let look = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|_| {
                if path.is_dir() {
                    std::fs::read_dir(path).map(drop)
                } else {
                    std::fs::File::open(path).map(drop)
                }
            })
            .map_err(|error| {
                let user = crate::data::access::user_name();
                format!("{} ({} as the user {user})", path.display(), error.kind())
            })
    };
    match source.clone().paths_mut().into_iter().try_for_each(|path| look(path)) {
        Ok(()) => Check { what: "source", well: true, finding: format!("{} can be opened", source.kind()) },
        Err(error) => Check { what: "source", well: false, finding: format!("cannot open {error}") },
    }
}

/// What decoded pictures take, and may take.
fn cache(config: &Config, folder: &SiteFolder) -> Check {
    let (place, most) = (folder.cache(), config.data.cache_gib.get());
    match config.cache(folder).used() {
        Ok(used) => {
            let used = used as f64 / f64::from(1 << 30);
            let finding =
                format!("{used:.2} GiB of decoded pictures in {}, {most} GiB at most", place.display());
            Check { what: "cache", well: true, finding }
        }
        Err(error) => Check { what: "cache", well: false, finding: format!("{}: {error}", place.display()) },
    }
}

/// The decoder is this program started anew; something may forbid that.
fn decoder(program: &Program) -> Check {
    let started = program
        .command(["decode"])
        .env_clear()
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .and_then(|mut child| child.wait());
    match started {
        Ok(_) => Check { what: "decoder", well: true, finding: "starts".into() },
        Err(error) => Check { what: "decoder", well: false, finding: format!("does not start: {error}") },
    }
}

/// What trains; a GPU is asked to compute something, as before each round.
fn device(config: &Config, program: &Program) -> Check {
    let threads = config.threads;
    if config.device.is_cpu() {
        let finding = format!("cpu, {threads} thread{}", if threads.get() == 1 { "" } else { "s" });
        return Check { what: "device", well: true, finding };
    }
    match Gpu::new(program, config.device, threads).probe() {
        Ok(name) => Check { what: "device", well: true, finding: format!("{}: {name}", config.device) },
        Err(error) => {
            let then = match config.on_gpu_loss {
                OnGpuLoss::DropOut => "this site sits rounds out",
                OnGpuLoss::Cpu => "rounds are trained on the cpu",
            };
            Check { what: "device", well: false, finding: format!("{}: {error}; {then}", config.device) }
        }
    }
}

/// Certificate and coordinator.
fn connection(config: &Config, folder: &SiteFolder) -> Vec<Check> {
    let dialler = match Dialler::read(config, folder) {
        Ok(dialler) => dialler,
        Err(error) => {
            return vec![Check { what: "credential", well: false, finding: in_words(error.as_ref()) }];
        }
    };
    let until = dialler.credential().chain.leaf().not_after;
    let valid = Timestamp::now() < until;
    let finding = if valid {
        format!("valid until {until}")
    } else {
        format!("expired at {until}; ask the operator for a new invitation")
    };
    let certificate = Check { what: "certificate", well: valid, finding };
    let dialled = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(dialler.dial()).map_err(|error| error.to_string()));
    let coordinator = match dialled {
        Ok(_) => Check { what: "coordinator", well: true, finding: format!("{} answers", dialler.address()) },
        Err(error) => Check { what: "coordinator", well: false, finding: error },
    };
    vec![certificate, coordinator]
}
