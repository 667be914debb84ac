//! `consilium site`: who belongs to the consortium.
//!
//! A hospital joins in three steps: the operator invites it, its machine asks with the invitation, and the
//! operator admits it after both have compared one fingerprint.

mod admit;
mod invitations;
mod invite;
mod listing;
mod revoke;

use clap::{Args, Subcommand};
use consilium_identity::enrolment::Terms;
use consilium_study::name::SiteName;
use consilium_study::quantity::HumanDuration;

pub use admit::{Admitted, Agreement, admit};
pub use invite::{Invited, invite};
pub use listing::{Line, list};
pub use revoke::{Revoked, revoke};

use crate::consortium::{Consortium, Location};
use crate::output::{self, Output};
use crate::remote;

/// Invite, admit, list and revoke the hospitals of the consortium
#[derive(Debug, Args)]
pub struct SiteArgs {
    #[command(flatten)]
    location: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Invite a hospital: prints one line to hand over, good for one machine
    ///
    /// The same command again prints the same line, as long as it is valid.
    Invite {
        /// Name of the site, for example `charite`
        name: SiteName,
        /// How long the invitation is of use; at most 30 days
        #[arg(long, default_value = "7d", value_name = "TIME")]
        valid: HumanDuration,
        /// Make another invitation, and so withdraw the one before
        #[arg(long)]
        anew: bool,
    },
    /// Admit a hospital that has asked, after comparing the fingerprint with the one it sees
    Admit {
        /// Name of the site
        name: SiteName,
        /// The fingerprint that the hospital has read out; nothing is asked then
        #[arg(long, value_name = "FINGERPRINT", conflicts_with = "yes")]
        fingerprint: Option<String>,
        /// Admit without comparing fingerprints
        #[arg(long)]
        yes: bool,
        /// It is a test machine: shown apart, and counted in no figure about hospitals
        #[arg(long)]
        test: bool,
        /// It takes the place of a site with the same name that lost its keys
        #[arg(long)]
        replace: bool,
    },
    /// List members, requests that wait to be admitted, and open invitations
    List,
    /// Show one site
    Show {
        /// Name of the site
        name: SiteName,
    },
    /// Revoke a site's certificate and cut its connections, at once and for good
    Revoke {
        /// Name of the site
        name: SiteName,
        /// Do not ask back
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
pub fn run(args: SiteArgs, output: Output) -> anyhow::Result<()> {
    let consortium = Consortium::open(&args.location)?;
    remote::run(async {
        match args.command {
            Command::Invite { name, valid, anew } => {
                let invited = invite::invite_again(&consortium, &name, valid, anew).await?;
                output.show(&invited, Invited::people)?;
            }
            Command::Admit { name, fingerprint, yes, test, replace } => {
                let agreement = match fingerprint {
                    Some(fingerprint) => Agreement::Fingerprint(fingerprint),
                    None if yes => Agreement::Unseen,
                    None => Agreement::Ask,
                };
                let admitted = admit(&consortium, &name, Terms { test, replace }, agreement).await?;
                output.show(&admitted, Admitted::people)?;
            }
            Command::List => listing::print(&list(&consortium).await?, output)?,
            Command::Show { name } => listing::show(&consortium, &name, output).await?,
            Command::Revoke { name, yes } => {
                output::confirm(&revoke::question(&name), yes)?;
                let revoked = revoke(&consortium, &name).await?;
                output.show(&revoked, Revoked::people)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        site: SiteArgs,
    }

    #[test]
    fn arguments_are_checked_where_they_are_typed() {
        Line::command().debug_assert();
        let read = |line: &str| Line::try_parse_from(line.split(' '));
        let Command::Invite { valid, anew, .. } =
            read("site invite charite --valid 2d").unwrap().site.command
        else {
            panic!("another command")
        };
        assert!(valid.as_millis() == 2 * 24 * 60 * 60 * 1000 && !anew);
        assert!(read("site admit charite --fingerprint 01ab").is_ok());
        for wrong in [
            "site invite charite --valid 7",
            "site invite Charite_1",
            "site admit charite --yes --fingerprint 01ab",
            "site revoke",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
