//! A consortium made as the handbook says, with its hospitals.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::data::{write_cases, write_pictures};
use crate::process::{Running, wait_until};

/// Where the programs under test are: `env!("CARGO_BIN_EXE_…")` of the test that asks.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// The command line.
    pub consilium: &'static str,
    /// The coordinator.
    pub coordinator: &'static str,
    /// The agent.
    pub site_agent: &'static str,
}

/// What a test's study says.
#[derive(Clone, Debug)]
pub struct Study {
    /// Its name.
    pub name: &'static str,
    /// Its sites; those of the laboratory unless others are named.
    pub sites: Option<Vec<String>>,
    /// Training rounds.
    pub rounds: u32,
    /// Sites that every round needs. Tests that compare bytes require all.
    pub required: Vec<String>,
    /// Model preset.
    pub model: &'static str,
    /// How long sites may take to return an update.
    pub collect_timeout: &'static str,
    /// More lines of `[data]`.
    pub data: &'static str,
    /// More lines of `[model]`.
    pub layers: &'static str,
    /// Lines of `[training]`.
    pub training: &'static str,
    /// More lines of `[rounds]`.
    pub strategy: &'static str,
    /// More lines of `[aggregation]`.
    pub aggregation: &'static str,
    /// Lines of `[evaluation]`.
    pub evaluation: &'static str,
}

impl Default for Study {
    fn default() -> Self {
        Self {
            name: "lungs",
            sites: None,
            rounds: 3,
            required: Vec::new(),
            model: "logistic",
            collect_timeout: "30s",
            data: "",
            layers: "",
            training: "optimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 16\nepochs = 1\n",
            strategy: "",
            aggregation: "",
            evaluation: "",
        }
    }
}

impl Study {
    /// One that needs all of a laboratory's so many hospitals in every round.
    pub fn requiring(sites: usize) -> Self {
        Self { required: site_names(sites), ..Self::default() }
    }
}

/// What a laboratory calls its hospitals: `a`, `b`, `c` …
fn site_names(sites: usize) -> Vec<String> {
    (b'a'..).take(sites).map(|site| char::from(site).to_string()).collect()
}

/// A consortium in a temporary folder.
pub struct Lab {
    programs: Programs,
    folder: tempfile::TempDir,
    port: u16,
    /// The coordinator, while it runs.
    pub coordinator: Option<Running>,
    /// Agents that run, by site.
    pub agents: BTreeMap<String, Running>,
    sites: Vec<String>,
}

impl Lab {
    /// A consortium with a running coordinator and enrolled hospitals `a`, `b`, `c` …, whose agents do not run yet.
    pub fn new(programs: Programs, sites: usize) -> anyhow::Result<Self> {
        Self::reached_through(programs, sites, None)
    }

    /// The same, where hospitals are told another port: that of a proxy on the way.
    pub fn reached_through(
        programs: Programs,
        sites: usize,
        proxy: Option<(u16, u16)>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (port, told) = match proxy {
            Some((port, told)) => (port, told),
            None => {
                let port = free_port()?;
                (port, port)
            }
        };
        let (agents, sites) = (BTreeMap::new(), site_names(sites));
        let mut lab = Self { programs, folder, port, coordinator: None, agents, sites };
        lab.consilium(&[
            "init",
            lab.path().to_str().context("text")?,
            "--name",
            "lab",
            "--address",
            &format!("127.0.0.1:{told}"),
        ])?;
        let config = lab.path().join("coordinator/coordinator.toml");
        let text = std::fs::read_to_string(&config)?.replace(&format!(":{told}\""), &format!(":{port}\""));
        // Nobody's line is slow here: a site that is gone is gone.
        std::fs::write(&config, text + "\n[timing]\nlink_grace = \"1s\"\n")?;
        std::fs::create_dir_all(lab.path().join("logs"))?;
        lab.start_coordinator(&[])?;
        for (number, site) in lab.sites.clone().iter().enumerate() {
            lab.write_site(site, number as u64 + 1)?;
            lab.enrol(site).with_context(|| format!("enrolling {site}"))?;
        }
        Ok(lab)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The hospitals.
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// Where the coordinator listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of a hospital.
    pub fn site_folder(&self, site: &str) -> PathBuf {
        self.path().join("sites").join(site)
    }

    fn write_site(&self, site: &str, seed: u64) -> anyhow::Result<()> {
        let folder = self.site_folder(site);
        std::fs::create_dir_all(folder.join("data"))?;
        write_cases(&folder.join("data/cases.npz"), 48, 24, seed)?;
        // Coordinators die often here, and come back at once.
        let config = "threads = 1\n[coordinator]\nlongest_pause = \"1s\"\n[source]\nkind = \"npz\"\nfile = \"data/cases.npz\"\n\
                      [policy]\napproval = \"automatic\"\noperators = [\"operator/operator\"]\n";
        std::fs::write(folder.join("site.toml"), config)?;
        Ok(())
    }

    /// Gives every hospital a folder of pictures with ages beside them, in place of its archive. Before its agent starts.
    pub fn give_pictures(&self) -> anyhow::Result<()> {
        for (site, seed) in self.sites.iter().zip(1..) {
            let folder = self.site_folder(site);
            write_pictures(&folder.join("data"), 120, seed)?;
            let config = folder.join("site.toml");
            let text = std::fs::read_to_string(&config)?;
            let source = "kind = \"images\"\nfolder = \"data\"\ntable = \"data/labels.csv\"";
            std::fs::write(config, text.replace("kind = \"npz\"\nfile = \"data/cases.npz\"", source))?;
        }
        Ok(())
    }

    /// Adds a line to the policy of a hospital. Its agent reads it when it is started.
    pub fn add_policy(&self, site: &str, line: &str) -> anyhow::Result<()> {
        let config = self.site_folder(site).join("site.toml");
        let text = std::fs::read_to_string(&config)?;
        // The section is the last one.
        Ok(std::fs::write(&config, text + line + "\n")?)
    }

    /// Runs `consilium` and returns what it printed; fails when it does.
    pub fn consilium(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(self.programs.consilium)
            .args(arguments)
            .env("CONSILIUM_DIR", self.path())
            .output()?;
        if !output.status.success() {
            bail!("consilium {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command of a hospital's agent beside the running one, and returns what it prints.
    pub fn site_agent(&self, site: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.programs.site_agent);
        let output = command.args(arguments).env("CONSILIUM_SITE", self.site_folder(site)).output()?;
        if !output.status.success() {
            bail!("site-agent {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the coordinator, with variables for crash tests.
    pub fn start_coordinator(&mut self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut running = self.spawn_coordinator(variables)?;
        running.ready()?;
        self.coordinator = Some(running);
        Ok(())
    }

    /// Starts the coordinator without waiting until it is ready.
    pub fn spawn_coordinator(&self, variables: &[(&str, &str)]) -> anyhow::Result<Running> {
        let mut command = Command::new(self.programs.coordinator);
        command.args(["serve", "--config"]).arg(self.path().join("coordinator/coordinator.toml"));
        command.envs(variables.iter().copied());
        Running::start(command, &self.path().join("logs/coordinator.log"))
    }

    fn enrol(&self, site: &str) -> anyhow::Result<()> {
        let invited: Value = serde_json::from_str(&self.consilium(&["--json", "site", "invite", site])?)?;
        let line = invited["invitation"].as_str().context("an invitation")?;
        let mut command = Command::new(self.programs.site_agent);
        command.args(["enrol", line, "--dir"]).arg(self.site_folder(site));
        let mut enrolling = Running::start(command, &self.path().join(format!("logs/{site}-enrol.log")))?;
        let admitted =
            wait_until(Duration::from_secs(20), || self.consilium(&["site", "admit", site, "--yes"]).is_ok());
        if !admitted || !wait_until(Duration::from_secs(30), || !enrolling.runs()) {
            bail!("{site} was not admitted: {}", enrolling.log());
        }
        Ok(())
    }

    /// Starts a hospital's agent, with variables for crash tests.
    pub fn start_agent(&mut self, site: &str, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut command = Command::new(self.programs.site_agent);
        command.args(["run", "--dir"]).arg(self.site_folder(site)).envs(variables.iter().copied());
        let running = Running::start(command, &self.path().join(format!("logs/{site}.log")))?;
        self.agents.insert(site.to_owned(), running);
        Ok(())
    }

    /// Starts all agents that do not run.
    pub fn start_agents(&mut self) -> anyhow::Result<()> {
        for site in self.sites.clone() {
            if !self.agents.contains_key(&site) {
                self.start_agent(&site, &[])?;
            }
        }
        Ok(())
    }

    /// Writes another patience with lines that break into the coordinator's configuration, and starts it anew.
    pub fn set_link_grace(&mut self, grace: &str) -> anyhow::Result<()> {
        let config = self.path().join("coordinator/coordinator.toml");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("link_grace = \"1s\"", &format!("link_grace = \"{grace}\"")))?;
        self.kill_coordinator()?;
        self.start_coordinator(&[])
    }

    /// The masked vector that a hospital's vault keeps, once it is whole.
    pub fn spooled(&self, site: &str) -> Option<PathBuf> {
        let mut open = vec![self.site_folder(site).join("vault")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).ok()?.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    open.push(path.clone());
                }
                let name = entry.file_name().to_string_lossy().into_owned();
                // While it is written it has another name.
                if name.strip_prefix("spool-").is_some_and(|attempt| attempt.parse::<u32>().is_ok()) {
                    return Some(path);
                }
            }
        }
        None
    }

    /// SIGKILL to a hospital's agent; its parts die with it.
    pub fn kill_agent(&mut self, site: &str) -> anyhow::Result<()> {
        self.agents.remove(site).context("the agent runs")?.kill()
    }

    /// SIGKILL to the coordinator.
    pub fn kill_coordinator(&mut self) -> anyhow::Result<()> {
        self.coordinator.take().context("the coordinator runs")?.kill()
    }

    /// Proposes and starts a study.
    pub fn launch(&self, study: &Study) -> anyhow::Result<()> {
        self.propose(study)?;
        self.consilium(&["study", "start", study.name])?;
        Ok(())
    }

    /// The same, once every site is ready: so the first round has all of them.
    pub fn launch_with_all(&self, study: &Study, patience: Duration) -> anyhow::Result<()> {
        self.propose(study)?;
        let is_ready = |site: &Value| site["rung"] == "ready";
        self.wait_for(study.name, patience, |status| {
            status["sites"].as_array().is_some_and(|sites| sites.iter().all(is_ready))
        })?;
        self.consilium(&["study", "start", study.name])?;
        Ok(())
    }

    fn propose(&self, study: &Study) -> anyhow::Result<()> {
        let quoted =
            |names: &[String]| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "format = 1\nname = \"{}\"\ntitle = \"A test\"\nsites = [{}]\nseed = 1\n\
             [data]\nlabels = [\"no\", \"yes\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n{}\
             [model]\npreset = \"{}\"\n{}\
             [training]\n{}\
             [rounds]\ncount = {}\nquorum = 3\nrequired = [{}]\ncollect_timeout = \"{}\"\nevaluate_timeout = \"30s\"\nsetup_timeout = \"30s\"\n{}\
             [aggregation]\nweight_cap = 64\n{}[evaluation]\n{}",
            study.name,
            quoted(study.sites.as_ref().unwrap_or(&self.sites)),
            study.data,
            study.model,
            study.layers,
            study.training,
            study.rounds,
            quoted(&study.required),
            study.collect_timeout,
            study.strategy,
            study.aggregation,
            study.evaluation,
        );
        let path = self.path().join(format!("{}.toml", study.name));
        std::fs::write(&path, text)?;
        self.consilium(&["study", "propose", path.to_str().context("text")?])?;
        Ok(())
    }

    /// Where a study stands, in the coordinator's own words.
    pub fn status(&self, study: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.consilium(&["--json", "study", "status", study])?)?)
    }

    /// Waits until the status satisfies a condition, and returns it.
    pub fn wait_for(
        &self,
        study: &str,
        patience: Duration,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        // A coordinator that is being restarted does not answer; that is no answer yet.
        let met = wait_until(patience, || match self.status(study) {
            Ok(status) => {
                last = status;
                condition(&last)
            }
            Err(_) => false,
        });
        if met {
            Ok(last)
        } else {
            bail!("it never came to that; last status: {last}; logs: {}", self.logs())
        }
    }

    /// Waits until a study has released its model, and returns the model's hash.
    pub fn released(&self, study: &str, patience: Duration) -> anyhow::Result<String> {
        let status = self.wait_for(study, patience, |status| status["state"] == "released")?;
        status["released"].as_str().map(str::to_owned).context("a release names its model")
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path().join("logs")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(12)..];
            text.push_str(&format!("\n== {}\n{}", entry.file_name().to_string_lossy(), tail.join("\n")));
        }
        text
    }
}

/// A port that is free at the moment.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
