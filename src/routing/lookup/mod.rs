//! Sources of routes. Each kind has a file of its own; what stands around them stands here, once: time limits, answers
//! that are kept, the policy on where a source may send users, metrics, and whether a password is right.

mod cache;
mod fields;
mod file;
mod http;
mod kept;
mod ldap;
mod policy;
mod sql;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use self::cache::{Cache, Way};
use self::http::{Http, Question, Said};
use self::ldap::Ldap;
use self::policy::Policy;
use self::sql::Sql;
use super::Asker;
use super::password;
use crate::config::{self, Config, Finding, LookupSource};
use crate::imap::{Credentials, Secret};
use crate::metrics::{LookupMetrics, Metrics};
use crate::tls::Verified;

pub use self::fields::{Answer, Host, Place, Places};
pub use self::file::{Map, MapError};
pub use self::kept::LookupState;

/// A kept answer younger than this is not asked for again because a password does not fit it.
const TOO_YOUNG: Duration = Duration::from_secs(1);

/// One configured source.
pub(super) struct Lookup {
    config: config::Lookup,
    /// A hash of the files that its settings name.
    files: [u8; 32],
    source: Source,
    cache: Option<Cache<Key, Kept>>,
    /// For passwords in keys of the cache; it dies with the process.
    secret: hmac::Key,
    places: Arc<Places>,
    policy: Policy,
    metrics: LookupMetrics,
}

enum Source {
    File(Map),
    Http(Box<Http>),
    Sql(Box<Sql>),
    Ldap(Ldap),
}

/// All that an answer depends on, in one piece: the user, and what else the source is told. A hit is compared byte by byte,
/// so that one user's answer is never another's (CVE-2025-30189).
type Key = Box<[u8]>;

/// What is kept of an answer.
#[derive(Clone)]
enum Kept {
    Unknown,
    Refused(String, Duration),
    Found(Arc<Found>),
}

struct Found {
    answer: Answer,
    /// The user's entry in a directory.
    entry: Option<String>,
    /// The source was told the password and has accepted it.
    proven: bool,
}

/// What a source says of a login.
pub(super) enum Verdict {
    /// It does not know the user.
    Unknown,
    /// The password is wrong, or the user is not to be let in: what the user is told, if the source says so, and how long
    /// it wants that to take.
    Refused(Option<String>, Duration),
    /// It knows the user; and whether it has found that the password is right.
    Found(Answer, bool),
}

impl Lookup {
    /// Reads what the configuration says. A source with answers that are kept is the one of `before`, if nothing has changed
    /// that it is made from; a map is read anew.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(super) fn load(
        lookup: &config::Lookup,
        config: &Config,
        places: &Arc<Places>,
        metrics: &Metrics,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Vec<Finding>> {
        let files = digest(lookup);
        let policy = Policy::new(&lookup.allow, config);
        // Kept answers have passed the policy, and name backends by their number: both are as they were only if all names and
        // addresses are, in their order.
        let same = |before: &&Arc<Self>| before.config == *lookup && before.files == files && before.policy == policy;
        if !matches!(lookup.source, LookupSource::File { .. })
            && let Some(before) = before.filter(same)
        {
            return Ok(Arc::clone(before));
        }
        let source = match &lookup.source {
            LookupSource::File { path } => Source::File(load_map(path, places)?),
            LookupSource::Http(http) => Source::Http(Box::new(Http::new(&with_headers(http)?)?)),
            LookupSource::Sql(sql) => Source::Sql(Box::new(Sql::new(sql)?)),
            LookupSource::Ldap(ldap) => Source::Ldap(Ldap::new(ldap)?),
        };
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| vec![Finding { site: None, message: "there is no randomness on this machine".to_owned() }])?;
        Ok(Arc::new(Self {
            files,
            source,
            cache: lookup.cache.map(Cache::new),
            secret,
            places: Arc::clone(places),
            policy,
            metrics: metrics.lookup(&lookup.name),
            config: lookup.clone(),
        }))
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether it says if passwords are right.
    pub(super) fn authenticates(&self) -> bool {
        self.config.authenticate
    }

    /// Asks the source, or remembers what it said.
    ///
    /// # Errors
    /// Why it cannot tell, for the log.
    pub(super) async fn ask(&self, asker: &Asker<'_>) -> Result<Verdict, String> {
        let began = Instant::now();
        let verdict = match timeout(self.config.timeout, self.judge(asker)).await {
            Ok(verdict) => verdict,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let outcome = match &verdict {
            Ok(Verdict::Found(..)) => "found",
            Ok(Verdict::Unknown) => "unknown",
            Ok(Verdict::Refused(..)) => "refused",
            Err(_) => "failed",
        };
        self.metrics.answered(outcome, began.elapsed());
        verdict
    }

    async fn judge(&self, asker: &Asker<'_>) -> Result<Verdict, String> {
        let password = self.password(asker);
        let key = self.key(asker, password);
        let verdict = self.verdict(self.kept(&key, asker, password).await?, password).await?;
        // The password may be newer than the answer.
        if matches!(verdict, Verdict::Refused(..))
            && password.is_some()
            && let Some(cache) = &self.cache
            && cache.age(&key).is_some_and(|age| age >= TOO_YOUNG)
        {
            // Not forgotten: anybody could have that done to anybody while the source is down.
            cache.outdate(&key);
            return self.verdict(self.kept(&key, asker, password).await?, password).await;
        }
        Ok(verdict)
    }

    /// The password, where the source is to look at it.
    fn password<'a>(&self, asker: &Asker<'a>) -> Option<&'a Secret> {
        match &asker.login.credentials {
            Credentials::Password(password) if self.config.authenticate => Some(password),
            _ => None,
        }
    }

    async fn kept(&self, key: &Key, asker: &Asker<'_>, password: Option<&Secret>) -> Result<Kept, String> {
        // Sources are as large as their libraries make them.
        let asking = Box::pin(self.ask_source(asker, password));
        let Some(cache) = &self.cache else { return asking.await };
        let negative = |kept: &Kept| !matches!(kept, Kept::Found(_));
        // The source's own time is bounded below that of the whole, so that there is some left for a stale answer.
        let bounded = async {
            timeout(self.config.timeout.mul_f64(0.9), asking)
                .await
                .unwrap_or_else(|_| Err("no answer in time".to_owned()))
        };
        let (kept, way) = cache.answer(key, negative, bounded).await?;
        self.metrics.kept(match way {
            Way::Hit => "hit",
            Way::Miss => "miss",
            Way::Shared => "shared",
            Way::Stale => "stale",
        });
        Ok(kept)
    }

    async fn ask_source(&self, asker: &Asker<'_>, password: Option<&Secret>) -> Result<Kept, String> {
        let user = asker.user();
        let found = |answer: Answer, entry, proven| Kept::Found(Arc::new(Found { answer, entry, proven }));
        match &self.source {
            Source::File(map) => {
                let Some(answer) = map.find(user)? else { return Ok(Kept::Unknown) };
                Ok(found(self.allowed(answer)?, None, false))
            }
            Source::Sql(sql) => {
                let Some(fields) = sql.ask(user).await? else { return Ok(Kept::Unknown) };
                Ok(found(self.allowed(fields.read(&self.places)?)?, None, false))
            }
            Source::Ldap(ldap) => {
                let Some(entry) = ldap.ask(user).await? else { return Ok(Kept::Unknown) };
                Ok(found(self.allowed(entry.fields.read(&self.places)?)?, Some(entry.dn), false))
            }
            Source::Http(http) => match http.ask(&question(asker, password)).await? {
                Said::Refused { text, wait } => Ok(Kept::Refused(text, wait)),
                Said::Server { address, user, password: own } => {
                    let answer = Answer {
                        place: Some(Place::Host(Host::at(address))),
                        user,
                        password: own.map(Arc::new),
                        ..Answer::default()
                    };
                    Ok(found(self.allowed(answer)?, None, password.is_some()))
                }
            },
        }
    }

    fn allowed(&self, mut answer: Answer) -> Result<Answer, String> {
        if let Some(place) = answer.place.take() {
            answer.place = Some(self.policy.admit(place)?);
        }
        Ok(answer)
    }

    /// What was found is as good as the password.
    async fn verdict(&self, kept: Kept, password: Option<&Secret>) -> Result<Verdict, String> {
        let found = match kept {
            Kept::Unknown => return Ok(Verdict::Unknown),
            Kept::Refused(text, wait) => return Ok(Verdict::Refused(Some(text), wait)),
            Kept::Found(found) => found,
        };
        let right = match (password, &self.source) {
            (None, _) => return Ok(Verdict::Found(found.answer.clone(), false)),
            (Some(_), Source::File(_) | Source::Http(_)) => found.proven,
            (Some(password), Source::Sql(_)) => match &found.answer.hash {
                Some(hash) => password::verify(password, hash).await?,
                None => {
                    return Err("no column \"password\" in the answer, and the password is to be checked".to_owned());
                }
            },
            (Some(password), Source::Ldap(ldap)) => match &found.entry {
                Some(entry) => ldap.bind(entry, password).await?,
                None => false,
            },
        };
        Ok(if right { Verdict::Found(found.answer.clone(), true) } else { Verdict::Refused(None, Duration::ZERO) })
    }

    /// All that the answer may depend on.
    fn key(&self, asker: &Asker<'_>, password: Option<&Secret>) -> Key {
        let mut key = asker.user().normalised().to_vec();
        if let Source::Http(_) = self.source {
            // A responder is told these. Names hold no NUL, and what follows has a fixed form.
            let certificate = asker.tls.and_then(|tls| match &tls.client_certificate {
                Verified::By(certificate) => Some(certificate.fingerprint.as_str()),
                Verified::NotAsked | Verified::None => None,
            });
            let facts = (asker.origin.client.ip(), asker.origin.secure, method(asker), certificate);
            key.extend_from_slice(format!("\0{}\0{facts:?}\0", asker.listener).as_bytes());
            if let Some(password) = password {
                key.extend_from_slice(hmac::sign(&self.secret, password.reveal()).as_ref());
            }
        }
        key.into()
    }
}

/// SASL's word for a certificate; everything else is `plain` to responders.
fn method(asker: &Asker<'_>) -> &'static str {
    match asker.login.credentials {
        Credentials::Certificate => "external",
        Credentials::Password(_) | Credentials::Token(_) | Credentials::ScramFirst(_) => "plain",
    }
}

fn question<'a>(asker: &'a Asker<'_>, password: Option<&'a Secret>) -> Question<'a> {
    Question {
        user: asker.user().as_bytes(),
        password,
        method: method(asker),
        attempt: asker.attempt,
        client: asker.origin.client,
        proxied: asker.origin.proxied,
        tls: asker.tls,
        secure: asker.origin.secure,
    }
}

fn load_map(path: &config::At<PathBuf>, places: &Arc<Places>) -> Result<Map, Vec<Finding>> {
    let finding = |message| Finding { site: Some(path.site.clone()), message };
    let shown = path.value.display();
    let text = file::read(&path.value).map_err(|error| vec![finding(format!("cannot read {shown}: {error}"))])?;
    Map::parse(text, Arc::clone(places))
        .map_err(|errors| errors.into_iter().map(|error| finding(format!("{shown}:{error}"))).collect::<Vec<_>>())
}

/// Of the files that a source is made from; one that cannot be read is found when it is.
fn digest(lookup: &config::Lookup) -> [u8; 32] {
    let paths = match &lookup.source {
        LookupSource::File { .. } => [None, None],
        LookupSource::Http(http) => [http.headers_file.as_ref(), http.ca.as_ref()],
        LookupSource::Ldap(ldap) => [ldap.ca.as_ref(), ldap.bind.as_ref().map(|(_, file)| file)],
        LookupSource::Sql(sql) => match &sql.url {
            config::DatabaseUrl::File(file) => [Some(file), None],
            config::DatabaseUrl::Written(_) => [None, None],
        },
    };
    let mut context = Context::new(&SHA256);
    for path in paths.into_iter().flatten() {
        let bytes = Zeroizing::new(std::fs::read(&path.value).unwrap_or_default());
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(&bytes);
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

/// With those in the file of headers.
fn with_headers(http: &config::HttpLookup) -> Result<config::HttpLookup, Vec<Finding>> {
    let mut http = http.clone();
    let Some(file) = &http.headers_file else { return Ok(http) };
    let finding = |message| vec![Finding { site: Some(file.site.clone()), message }];
    let shown = file.value.display();
    let text =
        std::fs::read_to_string(&file.value).map_err(|error| finding(format!("cannot read {shown}: {error}")))?;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let header =
            line.split_once(':').ok_or_else(|| finding(format!("{shown}:{}: expected Name: value", number + 1)))?;
        http.headers.push((header.0.trim().to_owned(), header.1.trim().to_owned()));
    }
    Ok(http)
}
