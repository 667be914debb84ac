//! Attacks that must fail, against real agents over the real wire (`docs/cryptography.md`, sections 4 and 9).
//!
//! A [`hostile::HostileCoordinator`] has the coordinator's keys and stands between it and the agents. What a site
//! refuses is looked up in its journal, word for word; what a coordinator is left with goes through a test for
//! uniform bytes that fails on plain sums. Each test first or last does the same honestly, so that it is the lie
//! that is refused and nothing else about the message.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod contexts;
mod dealers;
mod forge;
mod garbage;
mod hostile;
mod members;
mod noise;
mod opened;
mod repeats;
mod setup;
mod split_view;
mod statistics;
mod survivors;
mod terms;
mod traps;
mod values;
mod wire;

use std::time::Duration;

use consilium_rounds::message::{Directive, Masked, SiteMessage};
use consilium_secagg::alarm::Alarm;
use consilium_secagg::context::Context;
use consilium_secagg::message::Advert;
use consilium_site_agent::folder::SiteFolder;
use consilium_site_agent::journal::{self, Event};
use consilium_site_agent::store::Disk;
use consilium_study::sign::Signed;
use consilium_tests::{Lab, Programs, Study, wait_until};

use crate::hostile::HostileCoordinator;

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_secs(90);

/// A laboratory whose agents reach their coordinator through one that lies.
struct Scene {
    lab: Lab,
    hostile: HostileCoordinator,
}

impl Scene {
    /// So many hospitals, whose agents do not run yet.
    fn new(sites: usize) -> Self {
        let lab = Lab::new(PROGRAMS, sites).unwrap();
        let hostile = HostileCoordinator::between(&lab).unwrap();
        Self { lab, hostile }
    }

    /// Starts all agents and a study in which everybody is required: every round begins with all of them.
    fn launch(&mut self, study: &Study) {
        self.lab.start_agents().unwrap();
        self.lab.launch_with_all(study, PATIENCE).unwrap();
    }

    /// SIGKILL, and a new start.
    fn kill_and_start(&mut self, site: &str) {
        self.lab.kill_agent(site).unwrap();
        self.lab.start_agent(site, &[]).unwrap();
    }

    /// Waits until something is so.
    fn until<T>(&self, what: &str, asked: impl Fn() -> Option<T>) -> T {
        let mut answer = None;
        wait_until(PATIENCE, || {
            answer = asked();
            answer.is_some()
        });
        answer.unwrap_or_else(|| {
            let journals: Vec<_> = self.lab.sites().iter().map(|site| (site, self.journal(site))).collect();
            panic!("never: {what}\n{journals:#?}\n{}", self.lab.logs())
        })
    }

    fn journal(&self, site: &str) -> Vec<Event> {
        let file = SiteFolder::new(self.lab.site_folder(site)).journal();
        journal::read(&Disk, &file).unwrap().into_iter().map(|record| record.event).collect()
    }

    /// What a site wrote down to have refused.
    fn refusals(&self, site: &str) -> Vec<String> {
        let refusal = |event| match event {
            Event::DirectiveRefused { reason, .. } => Some(reason),
            _ => None,
        };
        self.journal(site).into_iter().filter_map(refusal).collect()
    }

    /// Waits until a site has refused this so many times.
    fn refuses_again(&self, site: &str, reason: &str, times: usize) {
        self.until(&format!("{site} refuses {times} times: {reason}"), || {
            let refusals = self.refusals(site);
            (refusals.iter().filter(|refused| *refused == reason).count() == times).then_some(())
        });
    }

    /// Waits until the last thing that a site refused is this.
    fn refuses(&self, site: &str, reason: &str) {
        self.until(&format!("{site} refuses: {reason}"), || {
            self.refusals(site).last().is_some_and(|last| last == reason).then_some(())
        });
    }

    /// Waits until a site has written an alarm down, told the coordinator, and refused what it was asked.
    fn alarms(&self, site: &str, alarm: Alarm) {
        let what = format!("{alarm:?}");
        self.until(&format!("{site} raises {what}"), || {
            let noted = self
                .journal(site)
                .iter()
                .any(|event| matches!(event, Event::Alarm { what: noted, .. } if *noted == what));
            let told = self.hostile.said(site).contains(&SiteMessage::Alarm(alarm));
            (noted && told).then_some(())
        });
    }

    /// The true context of an attempt.
    fn context(&self, site: &str, attempt: u32) -> Signed<Context> {
        self.until(&format!("attempt {attempt} begins"), || {
            self.hostile.heard(site).into_iter().find_map(|directive| match directive {
                Directive::Begin { context } if number(&context) == attempt => Some(context),
                _ => None,
            })
        })
    }

    /// What a site announced of its masked vector in an attempt, each time that it did.
    fn masked(&self, site: &str, attempt: u32) -> Vec<Masked> {
        let masked = |message| match message {
            SiteMessage::Masked(masked) if masked.attempt.get() == attempt => Some(masked),
            _ => None,
        };
        self.hostile.said(site).into_iter().filter_map(masked).collect()
    }

    /// Waits for a site's masked vector in an attempt.
    fn awaits_masked(&self, site: &str, attempt: u32) -> Masked {
        self.until(&format!("{site} masks in attempt {attempt}"), || {
            self.hostile.upload(site, u64::from(attempt))?;
            self.masked(site, attempt).into_iter().next()
        })
    }

    /// Whether a site took part in an attempt, in its own words or in bytes that left it.
    fn took_part(&self, site: &str, attempt: u32) -> bool {
        let began = self
            .journal(site)
            .iter()
            .any(|event| matches!(event, Event::Began { attempt: began, .. } if *began == attempt));
        began
            || !self.masked(site, attempt).is_empty()
            || self.hostile.upload(site, u64::from(attempt)).is_some()
    }

    /// The advert that a site made in an epoch.
    fn advert(&self, site: &str) -> Signed<Advert> {
        self.until(&format!("{site} advertises keys"), || {
            self.hostile.said(site).into_iter().find_map(|message| match message {
                SiteMessage::Advert(advert) => Some(advert),
                _ => None,
            })
        })
    }
}

/// The attempt that a context is of.
fn number(context: &Signed<Context>) -> u32 {
    context.claim().unwrap().attempt.get()
}

/// A study in which every round begins with all of so many hospitals, and waits for them.
fn patient(sites: usize) -> Study {
    Study { rounds: 2, collect_timeout: "10m", ..Study::requiring(sites) }
}
