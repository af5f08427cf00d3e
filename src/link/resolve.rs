//! Names of hosts to addresses, asked of DNS and kept for as long as their TTL says (hickory-resolver's cache), `/etc/hosts`
//! first. While DNS is gone, what a name led to last serves on. An address that did not answer of late comes last. Not here:
//! dialling.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;
/// Of more names or addresses than this nothing is remembered.
const MOST_REMEMBERED: usize = 10_000;
/// One question to one server. Two of them fit into the usual time for connecting.
const QUESTION: Duration = Duration::from_secs(2);
/// An answer without TTL is kept for this, so that each login does not ask.
const SHORTEST: Duration = Duration::from_secs(1);
/// However long a TTL is, a change is seen after this.
const LONGEST: Duration = Duration::from_hours(1);
/// Where it is known where a name led to last, an answer is waited for so long: half of the time that a probe of the backend
/// has by default, since a backend is not down because DNS is.
const PATIENCE: Duration = Duration::from_secs(1);
/// And so long after a question that was not answered none is asked.
const AGAIN: Duration = Duration::from_secs(10);
/// How long an address that did not answer comes last.
const SHUNNED: Duration = Duration::from_secs(30);

/// Who knows where names lead.
pub struct Names {
    /// `None`: the system's own.
    resolver: Option<TokioResolver>,
    last: Arc<DashMap<String, Arc<[IpAddr]>>>,
    shunned: Arc<DashMap<SocketAddr, Instant>>,
    /// Names that were asked for in vain of late. Of those in `last` alone.
    unanswered: Arc<DashMap<String, Instant>>,
}

impl Names {
    /// Asks these servers; with none, those of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// That file cannot be used; why. [`Names::by_the_system`] goes without it.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, String> {
        let error = |error: hickory_resolver::net::NetError| error.to_string();
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(error)?
        } else {
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().copied().map(server).collect());
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        adjust(builder.options_mut());
        Ok(Self { resolver: Some(builder.build().map_err(error)?), ..Self::by_the_system() })
    }

    /// Asks the system's library, which tells no TTL and so is asked each time.
    pub fn by_the_system() -> Self {
        Self { resolver: None, last: Arc::default(), shunned: Arc::default(), unanswered: Arc::default() }
    }

    /// It knows besides what others have learnt.
    pub(super) fn knowing(self, others: &Self) -> Self {
        Self { last: Arc::clone(&others.last), shunned: Arc::clone(&others.shunned), ..self }
    }

    /// Where a host is: its addresses with this port, the likeliest first.
    ///
    /// # Errors
    /// Why that is not known.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => [address].into(),
            Err(_) => self.ask(host, port).await?,
        };
        let mut addresses: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, port)).collect();
        // Stable: the others stay in the order of the answer.
        addresses.sort_by_key(|address| self.is_shunned(*address));
        Ok(addresses)
    }

    /// This address did not answer.
    pub(super) fn shun(&self, address: SocketAddr) {
        if self.shunned.len() >= MOST_REMEMBERED {
            self.shunned.retain(|_, since| since.elapsed() < SHUNNED);
        }
        if self.shunned.len() < MOST_REMEMBERED {
            self.shunned.insert(address, Instant::now());
        }
    }

    fn is_shunned(&self, address: SocketAddr) -> bool {
        self.shunned.get(&address).is_some_and(|since| since.elapsed() < SHUNNED)
    }

    async fn ask(&self, host: &str, port: u16) -> Result<Arc<[IpAddr]>, String> {
        let Some(last) = self.last.get(host).map(|last| Arc::clone(&last)) else {
            return match self.look_up(host, port).await {
                Ok(found) => self.found(host, found),
                Err(Unknown::NoSuchName) => Err(format!("{host}: no such name")),
                Err(Unknown::Unanswered(why)) => Err(format!("{host}: {why}")),
            };
        };
        if self.unanswered.get(host).is_some_and(|since| since.elapsed() < AGAIN) {
            return Ok(last);
        }
        let answer = timeout(PATIENCE, self.look_up(host, port)).await;
        match answer.unwrap_or_else(|_| Err(Unknown::Unanswered("no answer in time".to_owned()))) {
            Ok(found) => {
                if self.unanswered.remove(host).is_some() {
                    info!(host, "DNS answers for this name again");
                }
                self.found(host, found)
            }
            Err(Unknown::NoSuchName) => Err(format!("{host}: no such name")),
            Err(Unknown::Unanswered(why)) => {
                if self.unanswered.insert(host.to_owned(), Instant::now()).is_none() {
                    warn!(host, why, "no answer from DNS; the address that this name led to last serves on");
                }
                Ok(last)
            }
        }
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<IpAddr>, Unknown> {
        if let Some(resolver) = &self.resolver {
            match resolver.lookup_ip(host).await {
                Ok(found) => Ok(found.iter().collect()),
                // That there is no such name is an answer.
                Err(error) if error.is_no_records_found() => Err(Unknown::NoSuchName),
                Err(error) => Err(Unknown::Unanswered(error.to_string())),
            }
        } else {
            let found = tokio::net::lookup_host((host, port)).await;
            let found = found.map_err(|error| Unknown::Unanswered(error.to_string()))?;
            Ok(found.map(|address| address.ip()).collect())
        }
    }

    fn found(&self, host: &str, mut found: Vec<IpAddr>) -> Result<Arc<[IpAddr]>, String> {
        if found.is_empty() {
            return Err(format!("{host}: has no address"));
        }
        found.truncate(MOST_ADDRESSES);
        let found: Arc<[IpAddr]> = found.into();
        if self.last.contains_key(host) || self.last.len() < MOST_REMEMBERED {
            self.last.insert(host.to_owned(), Arc::clone(&found));
        }
        Ok(found)
    }
}

/// Why it is not known where a name leads.
enum Unknown {
    NoSuchName,
    Unanswered(String),
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn adjust(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = QUESTION;
    options.positive_min_ttl = Some(SHORTEST);
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(Duration::from_secs(10));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows one A record for every name, as long as it has one to tell.
    async fn responder(answer: Arc<Mutex<Option<[u8; 4]>>>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.expect("a question");
                let Some(ip) = *answer.lock().expect("whole") else { continue };
                let question = &packet[..length];
                let mut end = 12;
                while question[end] != 0 {
                    end += usize::from(question[end]) + 1;
                }
                let is_a = question[end + 1..end + 3] == [0, 1];
                let mut reply = question[..end + 5].to_vec();
                // An answer, recursion available; one question, as many answers as there are, nothing else.
                reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
                if is_a {
                    // The name of the question, A, IN, TTL 1, four bytes.
                    reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                    reply.extend_from_slice(&ip);
                }
                socket.send_to(&reply, from).await.expect("sent");
            }
        });
        address
    }

    async fn first(names: &Names) -> Result<SocketAddr, String> {
        names.addresses("mail.example.test.", 143).await.map(|addresses| addresses[0])
    }

    #[tokio::test]
    async fn changes_are_followed_and_the_last_address_outlives_dns() {
        let answer = Arc::new(Mutex::new(Some([127, 0, 0, 2])));
        let names = Names::new(&[responder(Arc::clone(&answer)).await]).expect("settings");
        assert_eq!(first(&names).await, Ok("127.0.0.2:143".parse().expect("an address")));
        *answer.lock().expect("whole") = Some([127, 0, 0, 3]);
        assert_eq!(first(&names).await, Ok("127.0.0.2:143".parse().expect("an address")), "its TTL is not over");
        // The cache's clock is the system's; this waits for the fact.
        let changed = async {
            while first(&names).await != Ok("127.0.0.3:143".parse().expect("an address")) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(10), changed).await.expect("the new address");
        *answer.lock().expect("whole") = None;
        names.resolver.as_ref().expect("one").clear_cache();
        assert_eq!(first(&names).await, Ok("127.0.0.3:143".parse().expect("an address")), "DNS is gone");
        let names = Names::new(&[responder(answer).await]).expect("settings").knowing(&names);
        assert_eq!(
            first(&names).await,
            Ok("127.0.0.3:143".parse().expect("an address")),
            "asked elsewhere, in vain too"
        );
        let other = names.addresses("other.example.test.", 143).await.expect_err("never heard of");
        assert!(other.starts_with("other.example.test.: "), "{other}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_comes_last_for_a_while() {
        let names = Names::by_the_system();
        names.last.insert("x".to_owned(), Arc::new([]));
        let [one, two] = ["127.0.0.1:1", "127.0.0.2:1"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        names.shun(one);
        let mut addresses = vec![one, two];
        addresses.sort_by_key(|address| names.is_shunned(*address));
        assert_eq!(addresses, [two, one]);
        tokio::time::advance(SHUNNED).await;
        assert!(!names.is_shunned(one));
    }

    #[tokio::test]
    async fn an_address_is_nobodys_business() {
        let names = Names::by_the_system();
        let found = names.addresses("::1", 993).await;
        assert_eq!(found, Ok(vec!["[::1]:993".parse().expect("an address")]));
    }
}
