//! Sources of routes. Each kind has a file of its own and answers the same question with the same fields; what stands
//! around them (metrics now) stands here, once.

mod fields;
mod file;
mod http;
mod ldap;

use tokio::time::Instant;

use crate::config::{self, Finding, LookupSource};
use crate::imap::UserName;
use crate::metrics::{LookupMetrics, Metrics};

pub use self::file::{Map, MapError};

/// One configured source.
pub(super) struct Lookup {
    source: Source,
    metrics: LookupMetrics,
}

enum Source {
    File(Map),
}

/// What a source says of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Index of the backend.
    pub backend: usize,
    /// The user's name there, if the source gives one.
    pub user: Option<UserName>,
}

impl Lookup {
    pub(super) fn load(
        lookup: &config::Lookup,
        backends: &[config::Backend],
        metrics: &Metrics,
    ) -> Result<Self, Vec<Finding>> {
        let source = match &lookup.source {
            LookupSource::File { path } => {
                let names: Vec<_> = backends.iter().map(|backend| backend.name.as_str()).collect();
                let finding = |message| Finding { site: Some(path.site.clone()), message };
                let shown = path.value.display();
                let text =
                    file::read(&path.value).map_err(|error| vec![finding(format!("cannot read {shown}: {error}"))])?;
                let map = Map::parse(text, &names).map_err(|errors| {
                    errors.into_iter().map(|error| finding(format!("{shown}:{error}"))).collect::<Vec<_>>()
                })?;
                Source::File(map)
            }
            LookupSource::Http(_) | LookupSource::Sql(_) | LookupSource::Ldap(_) => return Err(Vec::new()),
        };
        Ok(Self { source, metrics: metrics.lookup(&lookup.name) })
    }

    /// Asks the source; `None` when it does not know the user.
    ///
    /// # Errors
    /// Why it cannot tell, for the log.
    #[expect(clippy::unused_async, reason = "a source may have to be asked over the network; its callers await it")]
    pub(super) async fn ask(&self, user: &UserName) -> Result<Option<Answer>, String> {
        let began = Instant::now();
        let answer = match &self.source {
            Source::File(map) => map.find(user),
        };
        let outcome = match &answer {
            Ok(Some(_)) => "found",
            Ok(None) => "unknown",
            Err(_) => "failed",
        };
        self.metrics.answered(outcome, began.elapsed());
        answer
    }
}
