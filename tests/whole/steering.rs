//! Groups under way: what operators do to them, and what they do when a backend fails. The backends keep one journal, in
//! which it stands who came where, and in what order.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailmux::imap::UserName;
use mailmux::steer::{Drained, Filter, Moved, SteerError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::{show, soon};

/// Longer than any test takes.
const LONG: Duration = Duration::from_hours(1);
const AWAY: &str = "a NO [UNAVAILABLE] Account is temporarily unavailable.\r\n";
const MOVED: &str = "* BYE Account is moving, please log in again.\r\n";

/// What has happened, in its order: `blue ann` when a login arrives there, and what a test writes in between.
#[derive(Clone)]
struct Journal(Arc<watch::Sender<Vec<String>>>);

impl Journal {
    fn new() -> Self {
        Self(Arc::new(watch::channel(Vec::new()).0))
    }

    fn note(&self, what: impl Into<String>) {
        self.0.send_modify(|lines| lines.push(what.into()));
    }

    fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Where a user has come, in its order.
    fn of(&self, user: &str) -> Vec<String> {
        of(&self.0.borrow(), user)
    }

    /// Waits for so many more logins of one user.
    async fn more(&self, user: &str, count: usize) {
        let enough = self.of(user).len() + count;
        let mut lines = self.0.subscribe();
        let waited = lines.wait_for(|lines| of(lines, user).len() >= enough);
        soon(&format!("{count} more logins of {user}"), waited).await.expect("a journal");
    }
}

fn of(lines: &[String], user: &str) -> Vec<String> {
    lines.iter().filter_map(|line| Some(line.strip_suffix(user)?.strip_suffix(' ')?.to_owned())).collect()
}

/// Whose logins a backend ends by closing.
#[derive(Clone, Default)]
struct Broken(Arc<Mutex<Option<&'static str>>>);

impl Broken {
    fn set(&self, whose: Option<&'static str>) {
        *self.0.lock().expect("no panic") = whose;
    }

    fn is(&self, user: &str) -> bool {
        self.0.lock().expect("no panic").is_some_and(|whose| whose == "*" || whose == user)
    }
}

/// One session at a backend that notes who comes.
async fn receive(mut call: Call, name: &'static str, journal: Journal, broken: Broken) {
    call.say(b"* OK [CAPABILITY IMAP4rev1] friendly\r\n").await;
    let (read, mut write) = call.tcp.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (tag, command) = line.split_once(' ').expect("a tag");
        let answer = if let Some(arguments) = command.strip_prefix("LOGIN \"") {
            let user = arguments.split('"').next().expect("a user");
            journal.note(format!("{name} {user}"));
            if broken.is(user) {
                return;
            }
            format!("{tag} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n")
        } else if command == "LOGOUT" {
            let _ = write.write_all(format!("* BYE bye\r\n{tag} OK out\r\n").as_bytes()).await;
            return;
        } else {
            format!("{tag} OK done\r\n")
        };
        let _ = write.write_all(answer.as_bytes()).await;
    }
}

struct World {
    server: Running,
    journal: Journal,
    /// Whom `blue` fails.
    broken: Broken,
}

impl World {
    /// A group `eu` of `blue` and `green`, where everybody is, and `red` beside it.
    async fn new(choose: &str) -> Self {
        let (journal, broken) = (Journal::new(), Broken::default());
        let [blue, green, red] = [Backend::listen().await, Backend::listen().await, Backend::listen().await];
        let config = config(choose, &[blue.section("blue"), green.section("green"), red.section("red")]);
        let whole = Broken::default;
        let backends = [(blue, "blue", broken.clone()), (green, "green", whole()), (red, "red", whole())];
        for (backend, name, broken) in backends {
            let journal = journal.clone();
            backend.each_call(move |call| receive(call, name, journal.clone(), broken.clone()));
        }
        Self { server: Running::start(Path::new("."), &config), journal, broken }
    }

    /// A session; where it is.
    async fn log_in(&self, user: &str) -> (Client<TcpStream>, String) {
        let client = log_in(self.server.at("plain"), user).await.expect("let in");
        (client, self.journal.of(user).last().expect("it has come somewhere").clone())
    }

    /// Logs a user in and out again and again, `times` at once, until told to stop.
    fn come_and_go(&self, users: &[&'static str], times: usize) -> Crowd {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::channel(0).0));
        let address = self.server.at("plain");
        let one = |user: &'static str| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = log_in(address, user).await.unwrap_or_else(|no| panic!("{user} heard {no}"));
                    client.say("b NOOP\r\nc LOGOUT\r\n").await;
                    let heard = show(&client.hear_end().await);
                    // Whoever is in may be told to leave.
                    let fine = ["b OK done\\r\\n* BYE bye\\r\\nc OK out\\r\\n", ""];
                    assert!(fine.contains(&heard.as_str()) || heard.contains("* BYE"), "{user} heard {heard:?}");
                    count.send_modify(|count| *count += 1);
                }
            })
        };
        let tasks = users.iter().flat_map(|user| vec![*user; times]).map(one).collect();
        Crowd { stop, count, tasks }
    }
}

/// Users who come and go.
struct Crowd {
    stop: Arc<AtomicBool>,
    count: Arc<watch::Sender<usize>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Waits until they have come so many times more.
    async fn more(&self, count: usize) {
        let enough = *self.count.borrow() + count;
        let mut counted = self.count.subscribe();
        soon(&format!("{count} more sessions"), counted.wait_for(|count| *count >= enough)).await.expect("they come");
    }

    /// Everybody goes home; nobody has failed.
    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            soon("the last session", task).await.expect("all logins succeed");
        }
    }
}

fn config(choose: &str, backends: &[String]) -> String {
    format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}\
         [[group]]\nname = \"eu\"\nmembers = [\"blue\", \"green\"]\nchoose = \"{choose}\"\n\
         [[route]]\ngroup = \"eu\"\n[limits]\nlogins_per_user = \"off\"\nsessions_per_user = 1000\n",
        backends.concat()
    )
}

/// Logs in; or what the client heard instead of OK.
async fn log_in(address: std::net::SocketAddr, user: &str) -> Result<Client<TcpStream>, String> {
    let mut client = Client::connect(address).await;
    client.hear(GREETING).await;
    client.say(format!("a LOGIN {user} pass\r\n")).await;
    let line = client.hear_line().await;
    if line.starts_with("a OK") { Ok(client) } else { Err(line) }
}

async fn is_alive(client: &mut Client<TcpStream>) {
    client.say("n NOOP\r\n").await;
    client.hear("n OK done\r\n").await;
}

fn name(user: &str) -> UserName {
    UserName::new(user.as_bytes()).expect("a name")
}

/// The future has begun, and is not done.
async fn begins<T: std::fmt::Debug>(future: &mut (impl Future<Output = T> + Unpin)) {
    let ended = timeout(Duration::ZERO, future).await;
    assert!(ended.is_err(), "already over: {ended:?}");
}

#[tokio::test]
async fn a_drained_backend_gets_nobody_and_keeps_whom_it_has() {
    let world = World::new("first_healthy").await;
    let (mut ann, at) = world.log_in("ann").await;
    assert_eq!(at, "blue");
    let mut drain = pin!(world.server.steering.drain("blue", LONG));
    begins(&mut drain).await;
    let (mut bob, at) = world.log_in("bob").await;
    assert_eq!(at, "green");
    assert_eq!(world.log_in("ann").await.1, "green", "a second session of hers goes there too");
    is_alive(&mut ann).await;
    begins(&mut drain).await;
    drop(ann);
    assert_eq!(soon("the end of the drain", drain).await, Ok(Drained { dismissed: 0 }));
    assert_eq!(world.log_in("ann").await.1, "green", "it stays out of use");
    world.server.steering.undrain("blue").expect("a backend");
    assert_eq!(world.log_in("ann").await.1, "blue");
    is_alive(&mut bob).await;
}

#[tokio::test]
async fn whoever_stays_for_too_long_is_told_to_leave() {
    let world = World::new("first_healthy").await;
    let (mut ann, _) = world.log_in("ann").await;
    let mut drain = pin!(world.server.steering.drain("blue", Duration::from_millis(50)));
    begins(&mut drain).await;
    let (mut bob, _) = world.log_in("bob").await;
    let (drained, heard) = tokio::join!(drain, ann.hear_end());
    assert_eq!(show(&heard), show(MOVED.as_bytes()));
    assert_eq!(drained, Ok(Drained { dismissed: 1 }));
    is_alive(&mut bob).await;
    assert_eq!(world.log_in("ann").await.1, "green");
    world.server.until_metric("mailmux_sessions_closed_total{reason=\"moved\",side=\"mailmux\"}", 1.0).await;
}

#[tokio::test]
async fn a_drain_that_is_dropped_leaves_the_backend_out_of_use() {
    let world = World::new("first_healthy").await;
    let (_ann, _) = world.log_in("ann").await;
    {
        let mut drain = pin!(world.server.steering.drain("blue", LONG));
        begins(&mut drain).await;
    }
    assert_eq!(world.log_in("bob").await.1, "green");
}

#[tokio::test]
async fn a_login_that_fails_at_a_drained_backend_goes_elsewhere_and_is_not_waited_for() {
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = config("first_healthy", &[blue.section("blue"), green.section("green")]);
    let server = Running::start(Path::new("."), &config);
    let mut ann = Client::connect(server.at("plain")).await;
    ann.hear(GREETING).await;
    ann.say("a LOGIN ann pass\r\n").await;
    let mut call = blue.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1] friendly\r\n").await;
    call.hear_command().await;
    let mut drain = pin!(server.steering.drain("blue", LONG));
    begins(&mut drain).await;
    drop(call);
    let (drained, _there) = tokio::join!(soon("the end of the drain", drain), green.let_in());
    assert_eq!(drained, Ok(Drained { dismissed: 0 }));
    ann.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

#[tokio::test]
async fn a_drained_backend_gets_nobody_whom_a_rule_sends_straight_there() {
    let blue = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n",
        blue.section("blue")
    );
    let server = Running::start(Path::new("."), &config);
    soon("the drain", server.steering.drain("blue", LONG)).await.expect("drained");
    assert_eq!(log_in(server.at("plain"), "ann").await.err().as_deref(), Some(AWAY));
    assert!(blue.has_not_been_called());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_fails_while_backends_are_drained_in_turn() {
    let world = World::new("hash").await;
    let crowd = world.come_and_go(&["ann", "bob", "cid", "dan", "eve", "fay"], 2);
    for name in ["blue", "green", "blue", "green"] {
        crowd.more(20).await;
        let drained = soon("a drain", world.server.steering.drain(name, LONG)).await;
        world.journal.note(format!("drained {name}"));
        assert_eq!(drained, Ok(Drained { dismissed: 0 }), "all sessions are short");
        crowd.more(50).await;
        world.journal.note("in use");
        world.server.steering.undrain(name).expect("a backend");
    }
    crowd.more(50).await;
    crowd.stop().await;
    let mut drained = None;
    for line in world.journal.all() {
        match line.split_once(' ') {
            Some(("drained", name)) => drained = Some(name.to_owned()),
            Some(("in", "use")) => drained = None,
            Some((name, user)) => assert_ne!(Some(name), drained.as_deref(), "{user} was sent to a drained backend"),
            None => panic!("{line:?}"),
        }
    }
    assert!(
        ["blue ", "green "].iter().all(|name| world
            .journal
            .all()
            .last_chunk::<30>()
            .is_some_and(|last| { last.iter().any(|line| line.starts_with(name)) })),
        "both are in use again"
    );
}

#[tokio::test]
async fn a_held_login_waits_and_others_do_not() {
    let world = World::new("first_healthy").await;
    world.server.steering.hold(&name("Ann"));
    let mut ann = Client::connect(world.server.at("plain")).await;
    ann.hear(GREETING).await;
    ann.say("a LOGIN ann pass\r\nb NOOP\r\n").await;
    for user in ["bob", "cid"] {
        world.log_in(user).await;
    }
    assert_eq!(world.journal.all(), ["blue bob", "blue cid"]);
    assert!(world.server.steering.release(&name("ann")));
    ann.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\nb OK done\r\n").await;
    assert!(!world.server.steering.release(&name("ann")), "it is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_moved_there_and_back() {
    let world = World::new("first_healthy").await;
    let (ann, bob) = (world.come_and_go(&["ann"], 8), world.come_and_go(&["bob"], 2));
    ann.more(20).await;
    for to in [Some("green"), None, Some("green")] {
        // Whatever is done meanwhile takes as long as it takes; others do not wait.
        let meanwhile = async {
            world.journal.note("copying");
            world.journal.more("bob", 20).await;
            world.journal.note("copied");
        };
        soon("the move", world.server.steering.move_user(&name("ann"), to, meanwhile)).await.expect("moved");
        ann.more(50).await;
    }
    bob.more(10).await;
    ann.stop().await;
    bob.stop().await;

    let lines = world.journal.all();
    let hers: Vec<_> = lines.iter().map(String::as_str).filter(|line| !line.ends_with("bob")).collect();
    let mut turns = hers.clone();
    turns.dedup();
    let copied = ["copying", "copied"];
    let expected = [&["blue ann"], &copied[..], &["green ann"], &copied, &["blue ann"], &copied, &["green ann"]];
    assert_eq!(turns, expected.concat(), "nobody is at the old place once somebody is at the new one");
    assert!(world.journal.of("bob").iter().all(|at| at == "blue"));
}

#[tokio::test]
async fn who_is_moved_is_told_to_leave_and_may_come_back_at_once() {
    let world = World::new("first_healthy").await;
    let (mut first, _) = world.log_in("ann").await;
    let (mut second, _) = world.log_in("ann").await;
    let (mut bob, _) = world.log_in("bob").await;
    let mut third = Client::connect(world.server.at("plain")).await;
    third.hear(GREETING).await;
    let (user, meanwhile) = (name("ann"), async {
        third.say("a LOGIN ann pass\r\n").await;
        world.log_in("cid").await;
        assert_eq!(world.journal.of("ann"), ["blue", "blue"]);
    });
    let moving = world.server.steering.move_user(&user, Some("green"), meanwhile);
    let (moved, heard, too) = tokio::join!(moving, first.hear_end(), second.hear_end());
    assert_eq!(moved, Ok(Moved { dismissed: 2 }));
    assert_eq!((show(&heard), show(&too)), (show(MOVED.as_bytes()), show(MOVED.as_bytes())));
    third.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    assert_eq!(world.journal.of("ann"), ["blue", "blue", "green"]);
    is_alive(&mut bob).await;
}

#[tokio::test]
async fn a_move_that_is_dropped_lets_the_user_in_where_it_was() {
    let world = World::new("first_healthy").await;
    let mut ann = Client::connect(world.server.at("plain")).await;
    ann.hear(GREETING).await;
    {
        let user = name("ann");
        let mut moving = pin!(world.server.steering.move_user(&user, Some("green"), std::future::pending()));
        begins(&mut moving).await;
        ann.say("a LOGIN ann pass\r\n").await;
        world.log_in("bob").await;
        assert_eq!(world.journal.all(), ["blue bob"]);
    }
    ann.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    assert_eq!(world.journal.of("ann"), ["blue"]);
}

#[tokio::test]
async fn who_was_moved_by_hand_does_not_need_the_group() {
    let world = World::new("first_healthy").await;
    let steering = &world.server.steering;
    steering.move_user(&name("ann"), Some("red"), async {}).await.expect("moved");
    for name in ["blue", "green"] {
        soon("the drain", steering.drain(name, LONG)).await.expect("drained");
    }
    assert_eq!(world.log_in("ann").await.1, "red");
    assert_eq!(log_in(world.server.at("plain"), "bob").await.err().as_deref(), Some(AWAY), "nobody takes users");
    steering.undrain("blue").expect("a backend");
    assert_eq!(world.log_in("bob").await.1, "blue");
    assert_eq!(world.log_in("ann").await.1, "red", "until it is moved again");
    soon("the drain", steering.drain("red", LONG)).await.expect("drained");
    let no = log_in(world.server.at("plain"), "ann").await.err();
    assert_eq!(no.as_deref(), Some(AWAY), "its mail is nowhere else");
}

#[tokio::test]
async fn who_was_kicked_may_come_back() {
    let world = World::new("first_healthy").await;
    let (mut ann, _) = world.log_in("ann").await;
    let (mut bob, _) = world.log_in("bob").await;
    assert_eq!(world.server.steering.kick(&Filter::of_user(name("ANN"))).await.told, 1);
    assert_eq!(show(&ann.hear_end().await), "* BYE Closed by the administrator.\\r\\n");
    is_alive(&mut bob).await;
    assert_eq!(world.log_in("ann").await.1, "blue");
    assert_eq!(world.server.steering.kick(&Filter::of_user(name("nobody"))).await.told, 0);
}

#[tokio::test]
async fn a_backend_of_another_name_is_an_error_and_changes_nothing() {
    let world = World::new("first_healthy").await;
    let steering = &world.server.steering;
    let (ann, unknown) = (name("ann"), SteerError::NoSuchBackend("grey".to_owned()));
    assert_eq!(steering.drain("grey", LONG).await, Err(unknown.clone()));
    assert_eq!(steering.undrain("grey"), Err(unknown.clone()));
    assert_eq!(steering.move_user(&ann, Some("grey"), async { panic!("nothing is to be copied") }).await, Err(unknown));
    assert!(!steering.release(&ann), "nothing is held");
    assert_eq!(world.log_in("ann").await.1, "blue");
}

#[tokio::test]
async fn when_nobody_is_well_clients_hear_it_at_once() {
    // Ports on which nobody listens.
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let probed = |section: String| section.replace("health = \"off\"", "health = { interval = \"20ms\", fall = 2 }");
    let config = config("hash", &[probed(blue.section("blue")), probed(green.section("green"))]);
    drop((blue, green));
    let server = Running::start(Path::new("."), &config);
    for name in ["blue", "green"] {
        server.until_metric(&format!("mailmux_backend_up{{backend=\"{name}\"}}"), 0.0).await;
    }
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    let began = Instant::now();
    for _ in 0..3 {
        client.say("a LOGIN ann pass\r\n").await;
        client.hear(AWAY).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "they were not tried: {:?}", began.elapsed());
}

#[tokio::test]
async fn the_first_to_meet_a_dead_backend_is_let_in_elsewhere() {
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = config("first_healthy", &[blue.section("blue"), green.section("green")]);
    drop(blue);
    let server = Running::start(Path::new("."), &config);
    let mut ann = Client::connect(server.at("plain")).await;
    ann.hear(GREETING).await;
    ann.say("a LOGIN ann pass\r\n").await;
    let _there = green.let_in().await;
    ann.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    assert!(server.metric("mailmux_backend_up{backend=\"blue\"}").await < 0.5);
}

#[tokio::test]
async fn a_backend_that_greets_and_fails_everybody_is_given_up_and_taken_back() {
    let world = World::new("first_healthy").await;
    world.broken.set(Some("*"));
    let ((_ann, one), (_bob, two), (_cid, three)) =
        tokio::join!(world.log_in("ann"), world.log_in("bob"), world.log_in("cid"));
    assert_eq!([one, two, three], ["green"; 3], "all are in, without noticing");
    for user in ["ann", "bob", "cid"] {
        assert_eq!(world.journal.of(user), ["blue", "green"]);
    }
    assert!(world.server.metric("mailmux_backend_up{backend=\"blue\"}").await < 0.5);
    world.broken.set(None);
    soon("blue to be well", async {
        while world.server.metric("mailmux_backend_up{backend=\"blue\"}").await < 0.5 {
            world.log_in("dan").await;
        }
    })
    .await;
    assert_eq!(world.log_in("ann").await.1, "blue");
}

#[tokio::test]
async fn one_users_broken_mailbox_is_its_own_affair() {
    let world = World::new("first_healthy").await;
    world.broken.set(Some("ann"));
    let address = world.server.at("plain");
    // Each of them is tried three times.
    let (one, two) = tokio::join!(log_in(address, "ann"), log_in(address, "ann"));
    assert_eq!((one.err().as_deref(), two.err().as_deref()), (Some(AWAY), Some(AWAY)));
    assert_eq!(world.journal.of("ann"), ["blue"; 6]);
    assert_eq!(world.log_in("bob").await.1, "blue");
    assert!(world.server.metric("mailmux_backend_up{backend=\"blue\"}").await > 0.5);
}
