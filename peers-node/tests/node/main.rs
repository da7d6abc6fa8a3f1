//! Whole nodes in one process, on loopback sockets and real disks.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::Path;
use std::time::Duration;

use peers_crypto::{GroupId, RecoveryPhrase, Ticket, TopicKey};
use peers_node::{
    Bootstrap, Database, DatabaseError, DatabaseOptions, Home, LinkError, LinkOptions, MemberRole, MembershipError, Node, NodeEvent,
    OpenError, Options, RecoverError,
};
use rusqlite::Connection;

struct Peer {
    node: Node,
    home: Home,
}

fn options(name: &str) -> Options {
    // No discovery: peers of other tests on this machine are none of ours.
    Options { listen: vec![([127, 0, 0, 1], 0).into()], lan: false, name: name.into(), ..Options::default() }
}

async fn open(root: &Path, name: &str) -> Peer {
    let home = Home::at(root.join(name));
    Peer { node: Node::open(&home, options(name)).await.unwrap(), home }
}

async fn connect(a: &Peer, b: &Peer) {
    let listen = b.node.status().await.unwrap().listen;
    a.node.connect(Some(b.node.id()), listen).await.unwrap();
    until("a session", async || a.node.status().await.unwrap().peers.iter().any(|peer| peer.id == b.node.id())).await;
}

async fn link(inviter: &Peer, acceptor: &Peer) {
    let invitation = inviter.node.invite(LinkOptions::default()).await.unwrap();
    let code: Ticket = invitation.ticket().to_string().parse().unwrap();
    let accepting = async { acceptor.node.accept(code, LinkOptions::default()).await.unwrap().wait().await };
    let (shown, typed) = tokio::join!(invitation.wait(), accepting);
    assert_eq!(shown.unwrap().words, typed.unwrap().words);
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{what} does not come about"));
}

fn notes(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE note(id INTEGER PRIMARY KEY, title TEXT NOT NULL, body TEXT, data BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO note SELECT i, 'title ' || i, iif(i % 3, 'body of ' || i, NULL), randomblob(i % 50) FROM n;",
        )
        .unwrap();
    connection
}

type Row = (i64, String, Option<String>, Option<Vec<u8>>);

fn dump(connection: &Connection) -> Vec<Row> {
    let mut statement = connection.prepare("SELECT id, title, body, data FROM note ORDER BY id").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

fn has_table(database: &Database) -> bool {
    database.connection().unwrap().table_exists(None, "note").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_device_gets_the_database_and_both_see_each_others_writes() {
    let temp = tempfile::tempdir().unwrap();
    let (laptop, phone) = (open(temp.path(), "laptop").await, open(temp.path(), "phone").await);
    connect(&laptop, &phone).await;
    link(&laptop, &phone).await;

    let path = temp.path().join("notes.sqlite");
    let theirs = notes(&path);
    let database = laptop.node.database(&path, DatabaseOptions::default()).await.unwrap();
    assert!(database.track_all().await.unwrap().is_empty());
    until("the database's name on the phone", async || phone.node.databases().await.unwrap().iter().any(|known| known.name == "notes"))
        .await;
    let copy = phone.node.database(&temp.path().join("phone/notes.sqlite"), DatabaseOptions::default()).await.unwrap();
    assert_eq!(copy.id(), database.id());
    until("the table on the phone", async || has_table(&copy)).await;
    let mine = copy.connection().unwrap();
    until("2000 equal rows", async || dump(&mine) == dump(&theirs)).await;
    assert!(!std::fs::read(copy.path()).unwrap().starts_with(b"SQLite format 3"), "a file that the node made is sealed");

    // Any connection may write; both directions; different fields of one row.
    theirs.execute("UPDATE note SET title = 'from the laptop' WHERE id = 7", []).unwrap();
    mine.execute("UPDATE note SET body = 'from the phone' WHERE id = 7", []).unwrap();
    mine.execute("DELETE FROM note WHERE id = 8", []).unwrap();
    let row = |connection: &Connection| {
        connection.query_row("SELECT title || body FROM note WHERE id = 7", [], |row| row.get::<_, String>(0)).unwrap()
    };
    until("both edits on both", async || row(&mine) == "from the laptopfrom the phone" && dump(&mine) == dump(&theirs)).await;
    assert_eq!(dump(&mine).len(), 1999);
    until("in step", async || {
        copy.status().await.unwrap();
        database.status().await.unwrap().devices.iter().all(|device| device.in_step)
    })
    .await;
    laptop.node.close().await;
    phone.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart_without_a_goodbye() {
    let temp = tempfile::tempdir().unwrap();
    let peer = open(temp.path(), "peer").await;
    let topic = peer.node.user_topic("diary").await.unwrap();
    let mut ids = Vec::new();
    for i in 0..20 {
        ids.push(topic.publish(format!("entry {i}")).await.unwrap().id());
    }
    // The state as a crash would leave it: a copy of the files while the node runs.
    let copy = temp.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["key", "state.sqlite", "state.sqlite-wal", "cache.sqlite", "cache.sqlite-wal"] {
        std::fs::copy(temp.path().join("peer").join(name), copy.join(name)).unwrap();
    }
    let again = Node::open(&Home::at(&copy), options("peer")).await.unwrap();
    assert_eq!(again.id(), peer.node.id());
    let history = again.user_topic("diary").await.unwrap().history(100).await.unwrap();
    assert_eq!(history.iter().map(|message| message.id).collect::<Vec<_>>(), ids);
    assert!(again.status().await.unwrap().cache.packets >= 20, "the packets are still offered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_deleted_cache_file_costs_the_cache_alone() {
    let temp = tempfile::tempdir().unwrap();
    let peer = open(temp.path(), "peer").await;
    let id = peer.node.id();
    let said = peer.node.user_topic("diary").await.unwrap().publish("dear diary").await.unwrap().id();
    peer.node.close().await;
    for damage in [true, false] {
        match damage {
            true => std::fs::write(peer.home.cache_file(), [0xee; 10_000]).unwrap(),
            false => std::fs::remove_file(peer.home.cache_file()).unwrap(),
        }
        let again = Node::open(&peer.home, options("peer")).await.unwrap();
        assert_eq!(again.id(), id);
        assert_eq!(again.status().await.unwrap().cache.packets, 0);
        let diary = again.user_topic("diary").await.unwrap();
        assert_eq!(diary.history(10).await.unwrap().iter().map(|message| message.id).collect::<Vec<_>>(), [said]);
        let other = again.user_topic("notes").await.unwrap();
        other.publish("it works").await.unwrap();
        assert!(again.status().await.unwrap().cache.packets > 0);
        again.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_and_a_letter_reach_a_peer_and_are_told_to_be_stored_and_delivered() {
    let temp = tempfile::tempdir().unwrap();
    let (alice, bob) = (open(temp.path(), "alice").await, open(temp.path(), "bob").await);
    connect(&alice, &bob).await;
    let key = TopicKey::from_seed([5; 32]);
    let heard = bob.node.topic(&key).await.unwrap();
    let mut messages = heard.subscribe();
    let said = alice.node.topic(&key).await.unwrap();
    let mut publication = said.publish("hello, world").await.unwrap();
    let message = tokio::time::timeout(Duration::from_secs(10), messages.next()).await.unwrap().unwrap();
    assert_eq!((&message.payload[..], message.author), (&b"hello, world"[..], alice.node.id()));
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), publication.stored(1)).await.unwrap(), Ok(1));

    let mut events = bob.node.events();
    let mut sending = alice.node.send(bob.node.id(), Some("photo.jpg"), vec![0xff; 100_000].into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), sending.delivered()).await.unwrap().unwrap();
    let mail = loop {
        if let NodeEvent::Mail(mail) = events.next().await.unwrap() {
            break mail;
        }
    };
    assert_eq!((mail.from, mail.name.as_deref(), mail.body.len()), (alice.node.id(), Some("photo.jpg"), 100_000));
    assert_eq!(bob.node.inbox(10).await.unwrap(), vec![mail]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_second_nodes_and_taken_ports_are_refused_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let (laptop, phone) = (open(temp.path(), "laptop").await, open(temp.path(), "phone").await);
    connect(&laptop, &phone).await;
    let invitation = laptop.node.invite(LinkOptions::default()).await.unwrap();
    assert!(matches!(laptop.node.invite(LinkOptions::default()).await, Err(LinkError::Refused(_))));
    let first = invitation.ticket().to_string().split_whitespace().next().unwrap().to_owned();
    let wrong: Ticket = format!("{first} zoo zoo zoo").parse().unwrap();
    let accepting = async { phone.node.accept(wrong, LinkOptions::default()).await.unwrap().wait().await };
    let (shown, typed) = tokio::join!(invitation.wait(), accepting);
    assert!(shown.unwrap_err().to_string().contains("wrong"));
    assert!(typed.unwrap_err().to_string().contains("wrong"));

    let second = Node::open(&laptop.home, options("laptop")).await;
    assert!(matches!(second, Err(OpenError::AlreadyRunning { .. })));
    let taken = laptop.node.status().await.unwrap().listen;
    let other = Node::open(&Home::at(temp.path().join("other")), Options { listen: taken, ..options("other") }).await;
    assert!(matches!(other, Err(OpenError::Bind(_))), "{other:?}");

    let bare = temp.path().join("bare.sqlite");
    Connection::open(&bare).unwrap().execute_batch("CREATE TABLE log(line TEXT)").unwrap();
    let database = laptop.node.database(&bare, DatabaseOptions::default()).await.unwrap();
    let refused = database.track("log").await.unwrap_err();
    assert!(matches!(&refused, DatabaseError::Track(error) if error.to_string().contains("primary key")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_key_given_is_found_at_its_address_and_after_a_restart_again() {
    let temp = tempfile::tempdir().unwrap();
    let bob = open(temp.path(), "bob").await;
    let address = bob.node.status().await.unwrap().listen[0];
    let bootstrap = vec![Bootstrap { id: None, address }];
    let home = Home::at(temp.path().join("alice"));
    let alice = Node::open(&home, Options { bootstrap, ..options("alice") }).await.unwrap();
    until("a session", async || alice.status().await.unwrap().peers.iter().any(|peer| peer.id == bob.node.id())).await;
    let port = alice.status().await.unwrap().listen[0];
    alice.close().await;
    let again = Node::open(&home, options("alice")).await.unwrap();
    until("a session with a remembered peer", async || again.status().await.unwrap().peers.iter().any(|peer| peer.id == bob.node.id()))
        .await;
    assert_eq!(again.status().await.unwrap().listen[0], port, "the port is taken again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_commands_without_pause_does_not_keep_the_node_from_listening() {
    let temp = tempfile::tempdir().unwrap();
    let (alice, bob) = (open(temp.path(), "alice").await, open(temp.path(), "bob").await);
    connect(&alice, &bob).await;
    let key = TopicKey::from_seed([5; 32]);
    let mut messages = bob.node.topic(&key).await.unwrap().subscribe();
    let said = alice.node.topic(&key).await.unwrap();
    let busy: Vec<_> = (0..64)
        .map(|_| {
            let node = bob.node.clone();
            tokio::spawn(async move { while node.connect(None, Vec::new()).await.is_ok() {} })
        })
        .collect();
    said.publish("are you there?").await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(10), messages.next()).await;
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(heard.unwrap().unwrap().payload, "are you there?");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_that_nobody_waits_for_is_void_and_in_nobodys_way() {
    let temp = tempfile::tempdir().unwrap();
    let (laptop, phone) = (open(temp.path(), "laptop").await, open(temp.path(), "phone").await);
    connect(&laptop, &phone).await;
    let abandoned = laptop.node.invite(LinkOptions::default()).await.unwrap();
    let code: Ticket = abandoned.ticket().to_string().parse().unwrap();
    drop(abandoned);
    let accepting = phone.node.accept(code, LinkOptions::default()).await.unwrap();
    // It is told that the invitation is over, unless it came before the inviter knew.
    let ended = tokio::time::timeout(Duration::from_secs(2), accepting.wait()).await;
    assert!(matches!(ended, Err(_) | Ok(Err(LinkError::Failed { .. }))), "{ended:?}");
    link(&laptop, &phone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_messages_name_the_one_before_in_the_history_too() {
    let temp = tempfile::tempdir().unwrap();
    let peer = open(temp.path(), "peer").await;
    let topic = peer.node.user_topic("diary").await.unwrap();
    let first = topic.publish("one").await.unwrap().id();
    topic.publish("two").await.unwrap();
    let history = topic.history(10).await.unwrap();
    assert_eq!(history.iter().map(|message| message.previous).collect::<Vec<_>>(), [None, Some(first.link())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_nobody_waits_for_is_in_nobodys_way_and_a_second_one_is() {
    let temp = tempfile::tempdir().unwrap();
    let peer = open(temp.path(), "peer").await;
    let asking = peer.node.ask_guardians(GroupId([7; 32])).await.unwrap();
    assert!(matches!(peer.node.ask_guardians(GroupId([7; 32])).await, Err(RecoverError::Refused(_))));
    let phrase = RecoveryPhrase::generate(&mut rand::rng());
    assert!(matches!(peer.node.restore(phrase.clone()).await, Err(RecoverError::Refused(_))));
    drop(asking);
    let restoring = peer.node.restore(phrase).await.unwrap();
    drop(restoring);
    peer.node.ask_guardians(GroupId([7; 32])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_a_group_is_there_after_a_restart_without_a_goodbye() {
    let temp = tempfile::tempdir().unwrap();
    let peer = open(temp.path(), "peer").await;
    let group = peer.node.create_group("choir").await.unwrap();
    peer.node.rename(group, "band").await.unwrap();
    assert!(matches!(peer.node.rename(group, "").await, Err(MembershipError::Group(_))));
    let said = peer.node.group_topic(group).await.unwrap().unwrap().publish("tenors at eight").await.unwrap().id();
    peer.node.add_recovery(RecoveryPhrase::generate(&mut rand::rng()), None).await.unwrap();
    let copy = temp.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["key", "state.sqlite", "state.sqlite-wal"] {
        std::fs::copy(temp.path().join("peer").join(name), copy.join(name)).unwrap();
    }
    let again = Node::open(&Home::at(&copy), options("peer")).await.unwrap();
    let groups = again.groups().await.unwrap();
    assert_eq!((groups.len(), groups[0].name.as_str(), groups[0].role()), (1, "band", Some(MemberRole::Owner)));
    let history = again.group_topic(group).await.unwrap().unwrap().history(10).await.unwrap();
    assert_eq!(history.iter().map(|message| message.id).collect::<Vec<_>>(), [said]);
    let user = again.user().await.unwrap().id.parse().unwrap();
    assert_eq!(again.audit(user).await.unwrap().unwrap().recovery.len(), 1);
}
