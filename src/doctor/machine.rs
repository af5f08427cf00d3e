//! What can be seen without asking anybody: the configuration and the files that it names, certificates, clock, name servers.

use super::certificate::{DAY, SOON, now};
use super::report::{Section, Trouble};
use super::running;
use crate::config::Config;
use crate::link::Names;
use crate::server::Plan;

/// Reads everything that the configuration names.
pub(super) fn look(config: &Config) -> (Section, Option<Plan>) {
    let mut section = Section::new("machine", "", "");
    running::clock(&mut section, config);
    match Plan::load(config.clone()) {
        Ok(plan) => {
            section.well("files", "the configuration and all that it names can be used");
            for finding in plan.warnings() {
                let remedy = "mailmux check shows the place.";
                let message = in_one_line(&finding.message);
                let trouble = Trouble::new("configuration_warning", format!("{message}."), remedy);
                section.warn("files", message, trouble);
            }
            certificates(&mut section, &plan);
            (section, Some(plan))
        }
        Err(findings) => {
            for finding in findings {
                let message = in_one_line(&finding.message);
                section.fail("files", message.clone(), mistake(&message));
            }
            (section, None)
        }
    }
}

/// There is no configuration to go by.
pub(super) fn unreadable(findings: impl Iterator<Item = String>) -> Section {
    let mut section = Section::new("machine", "", "");
    for finding in findings {
        // The lines behind the first one show the place, as mailmux check does.
        let first = finding.lines().next().unwrap_or_default();
        section.fail("files", first, mistake(first));
    }
    section
}

fn in_one_line(message: &str) -> String {
    message.lines().collect::<Vec<_>>().join("; ")
}

fn mistake(finding: &str) -> Trouble {
    let remedy =
        "mailmux check shows the place. A mailmux that runs goes on with what it has; it would not start again.";
    Trouble::new("configuration", format!("The configuration cannot be used: {finding}."), remedy)
}

fn certificates(section: &mut Section, plan: &Plan) {
    let Some(certificates) = plan.certificates() else { return };
    let count = certificates.expiries().count();
    let Some((name, end)) = certificates.expiries().min_by_key(|(_, end)| *end) else { return };
    let left = (end - now()) / DAY;
    let text = format!("{count}; the first to end is {name}, in {left} days");
    // One that has expired is told of by reading it.
    if (0..SOON).contains(&left) && end > now() {
        let trouble = Trouble::new(
            "certificate_ends_soon",
            format!("The certificate {name} ends in {left} days."),
            "Renew it, and see why that has not happened by itself: the ACME client's log, and whether its hook copies the files to \
             where [tls] names them.",
        );
        section.warn("certificates", text, trouble);
    } else {
        section.well("certificates", text);
    }
}

/// Who is asked for names, as the server would.
pub(super) fn names(section: &mut Section, config: &Config) -> Names {
    match Names::new(&config.server.name_servers) {
        Ok(names) => names,
        Err(why) => {
            let trouble = Trouble::new(
                "resolv_conf",
                format!(
                    "/etc/resolv.conf cannot be used ({why}): each name is asked of the system's library, without a cache."
                ),
                "Correct it, or write server.name_servers.",
            );
            section.warn("name servers", why, trouble);
            Names::by_the_system()
        }
    }
}
