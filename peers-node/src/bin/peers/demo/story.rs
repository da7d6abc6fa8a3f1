//! What the three peers live through, and what must hold.

use core::time::Duration;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use peers_node::{DatabaseStatus, Status};
use rusqlite::Connection;
use tokio::time::sleep;

use super::burst;
use super::compare::{self, equal, read_only};
use super::edits::{Plan, open};
use super::peer::{Peer, until};
use super::report::Report;
use super::scan::Search;
use crate::body::Body;
use crate::control::answer::{LinkEvent, Linked, Message, Progress, Tracked};
use crate::control::client::Next;
use crate::control::request::{DatabaseRef, TopicName};
use crate::control::{Request, answer};
use crate::text::{plural, size, span};

/// Alice's laptop and phone, and a stranger who shares the swarm with her.
#[derive(Debug)]
pub(crate) struct Story {
    laptop: Peer,
    phone: Peer,
    stranger: Peer,
    /// The database's file on the laptop, and on the phone.
    files: [PathBuf; 2],
    tables: Vec<String>,
    plan: Plan,
    /// Distinctive texts that were written: the stranger must hold none of them.
    secrets: Vec<String>,
    /// Makes texts distinctive.
    mark: String,
    pub(crate) rows: u64,
}

impl Story {
    /// Three peers below `folder`, none running, and the laptop's database in `file`.
    pub(crate) fn new(folder: &Path, file: PathBuf, mark: String) -> Result<Self> {
        let connection = open(&file)?;
        let mut tables = compare::tables(&connection)?;
        let plan = Plan::new(&connection, &mut tables)?;
        let secrets = texts_of(&connection, &tables)?;
        let peer = |name, part: &str| Peer::new(name, folder.join(part));
        let phone = peer("phone", "phone")?;
        let files = [file, phone.folder().join("copy.sqlite")];
        let (laptop, stranger) = (peer("laptop", "laptop")?, peer("stranger", "stranger")?);
        Ok(Self { laptop, phone, stranger, files, tables, plan, secrets, mark, rows: 0 })
    }

    /// All of it; ends at the first check that does not hold.
    pub(crate) async fn run(&mut self, report: &mut Report) -> Result<()> {
        self.meet(report).await?;
        self.link(report).await?;
        self.copy(report).await?;
        self.diverge(report).await?;
        self.talk(report).await?;
        self.pass_by(report).await?;
        self.survive(report).await?;
        self.part(report).await
    }

    /// The last lines of every peer's log.
    pub(crate) fn last_words(&self) -> String {
        [&self.laptop, &self.phone, &self.stranger].map(Peer::last_words).concat()
    }

    fn peers(&mut self) -> [&mut Peer; 3] {
        [&mut self.laptop, &mut self.phone, &mut self.stranger]
    }

    /// A text that nobody else writes; the stranger must never hold it.
    fn text(&mut self, what: &str) -> String {
        let text = format!("{what} ~{}-{}", self.mark, self.secrets.len());
        self.secrets.push(text.clone());
        text
    }

    async fn meet(&mut self, report: &mut Report) -> Result<()> {
        report.heading("Three peers start: Alice's laptop, Alice's phone, and a stranger");
        report.begin("three processes start and look for each other on 127.0.0.1");
        for peer in self.peers() {
            peer.start().await?;
        }
        let found = self.all_connected().await.map(|rtt| {
            format!("3 processes, no server: each has a direct session with both others on 127.0.0.1, slowest round trip {rtt}")
        });
        report.check("found each other by LAN discovery", found)
    }

    /// Waits until each of the three has a direct session with both others; gives the slowest round trip.
    async fn all_connected(&self) -> Result<String> {
        until(async || {
            let mut all = Vec::new();
            for peer in [&self.laptop, &self.phone, &self.stranger] {
                all.push(status(peer).await?);
            }
            let mut slowest = 0.0_f64;
            for (one, name) in all.iter().zip(["laptop", "phone", "stranger"]) {
                for other in all.iter().filter(|other| other.id != one.id) {
                    let session = one
                        .peers
                        .iter()
                        .find(|peer| peer.id == other.id)
                        .with_context(|| format!("{name} has no session with {}", other.name))?;
                    ensure!(session.path.starts_with("direct 127.0.0.1:"), "{name} reaches {} {}", other.name, session.path);
                    slowest = slowest.max(session.rtt_ms.unwrap_or_default());
                }
            }
            Ok(format!("{slowest:.1} ms"))
        })
        .await
    }

    async fn link(&mut self, report: &mut Report) -> Result<()> {
        report.heading("a. The phone is linked to Alice by a short code");
        report.begin("the laptop shows a code, it is typed into the phone");
        let result = self.linked(report).await;
        report.check("linked by a code: one user, two device keys", result)
    }

    async fn linked(&mut self, report: &Report) -> Result<String> {
        let mut invitation = self.laptop.call(&Request::Invite { link: false, confirm: false, to: None }).await?;
        let Next::Event(LinkEvent::Code(code)) = invitation.next::<LinkEvent, Linked>().await? else {
            bail!("the invitation ended before it was used");
        };
        report.say(&format!("the code: {code}"));
        let there: Linked = self.phone.run(&["accept"], Some(&format!("{code}\n"))).await?;
        let here: Linked = invitation.answer().await?;
        ensure!(here.words == there.words, "the two devices show different words: {} and {}", here.words, there.words);
        let (laptop, phone, stranger) = (status(&self.laptop).await?, status(&self.phone).await?, status(&self.stranger).await?);
        ensure!(here.device == phone.id.to_string() && there.device == laptop.id.to_string(), "linked with someone else");
        ensure!(laptop.user.id == phone.user.id, "laptop and phone act for different users");
        ensure!(stranger.user.id != laptop.user.id, "the stranger acts for Alice");
        for one in [&laptop, &phone] {
            let mut devices: Vec<_> = one.user.devices.iter().map(|device| device.id).collect();
            let mut expected = vec![laptop.id, phone.id];
            devices.sort();
            expected.sort();
            ensure!(devices == expected, "{} knows the devices {devices:?}", one.name);
        }
        Ok(format!("both are user {:.8} with 2 devices, both show \"{}\"", laptop.user.id, here.words))
    }

    async fn copy(&mut self, report: &mut Report) -> Result<()> {
        report.heading("b. The laptop's database goes to the phone");
        report.begin("the laptop tracks its database");
        let result = self.track().await;
        report.check("an existing database is tracked", result)?;
        report.begin("the phone gets all of it");
        let result = self.joined().await;
        report.check("the phone has all of it, cell by cell", result)
    }

    async fn track(&mut self) -> Result<String> {
        let file = self.files[0].display().to_string();
        let tracked: Tracked = self.laptop.run(&["db", "track", &file, "--name", NAME], None).await?;
        let (tables, left): (Vec<_>, Vec<_>) = self.tables.iter().cloned().partition(|table| tracked.tables.contains(table));
        ensure!(!tables.is_empty(), "no table is tracked");
        let connection = read_only(&self.files[0])?;
        for table in &left {
            let columns = compare::columns(&connection, table)?;
            ensure!(columns.iter().all(|column| column.key == 0), "{table} has a primary key and is not tracked");
        }
        self.tables = tables;
        let without =
            if left.is_empty() { String::new() } else { format!("; {} without a primary key left out: {}", left.len(), left.join(", ")) };
        Ok(format!("{}{without}", plural(self.tables.len(), "table", "tables")))
    }

    async fn joined(&mut self) -> Result<String> {
        until(async || {
            let databases: Vec<DatabaseStatus> = self.phone.ask(&Request::Databases { database: None }).await?;
            ensure!(databases.iter().any(|database| database.name == NAME), "the phone has not heard of the database");
            Ok(())
        })
        .await?;
        let file = self.files[1].display().to_string();
        let _: Tracked = self.phone.run(&["db", "track", &file, "--name", NAME, "--plain"], None).await?;
        let equal = until(async || equal(&self.files[0], &self.files[1], &self.tables)).await?;
        self.rows = equal.rows;
        Ok(equal.to_string())
    }

    async fn diverge(&mut self, report: &mut Report) -> Result<()> {
        report.heading("c. Out of each other's reach, both edit");
        report.begin("each device edits while it runs alone");
        let edits = self.edit_apart().await;
        report.check(
            "each device was edited while no other ran",
            edits.as_ref().map(|_| "4 rows on each, by ordinary SQLite programs".to_owned()).map_err(clone),
        )?;
        let edits = edits?;
        report.begin("they meet again");
        self.laptop.start().await?;
        let met = until(async || equal(&self.files[0], &self.files[1], &self.tables)).await;
        let outcome = self.outcome(&edits);
        report.check("after meeting they are equal", met.map(|equal| equal.to_string()))?;
        let [fields, same, deletes] = outcome?;
        report.check("different fields of one row: both survive", fields)?;
        report.check("the same field: the later edit wins on both", same)?;
        report.check("a delete against an edit: the same on both", deletes)?;
        self.stranger.start().await
    }

    /// Edits on the phone's file and the laptop's, while the other device and the stranger are off.
    async fn edit_apart(&mut self) -> Result<Edits> {
        let edits = Edits { laptop: self.text("laptop"), phone: self.text("phone"), early: self.text("early"), late: self.text("late") };
        let [Plan { apart, same, edited_last, deleted_last, .. }] = [&self.plan];
        let (apart, same, edited_last, deleted_last) = (apart.clone(), same.clone(), edited_last.clone(), deleted_last.clone());
        self.stranger.stop().await?;
        self.phone.stop().await?;
        // The phone's node is off: its file is written by another program alone.
        same[1].set(&open(&self.files[1])?, &edits.early)?;
        sleep(APART).await;
        let laptop = open(&self.files[0])?;
        apart[0].set(&laptop, &edits.laptop)?;
        same[0].set(&laptop, &edits.early)?;
        same[1].set(&laptop, &edits.late)?;
        edited_last.row.delete(&laptop)?;
        deleted_last.set(&laptop, &edits.early)?;
        settled(&self.laptop).await?;
        self.laptop.stop().await?;
        sleep(APART).await;
        self.phone.start().await?;
        let phone = open(&self.files[1])?;
        apart[1].set(&phone, &edits.phone)?;
        same[0].set(&phone, &edits.late)?;
        edited_last.set(&phone, &edits.late)?;
        deleted_last.row.delete(&phone)?;
        settled(&self.phone).await?;
        let alone = status(&self.phone).await?;
        ensure!(alone.peers.iter().all(|peer| peer.name.is_none()), "the phone was not alone");
        Ok(edits)
    }

    /// What became of the edits.
    fn outcome(&self, edits: &Edits) -> Result<[Result<String>; 3]> {
        let Plan { apart, same, edited_last, deleted_last, .. } = &self.plan;
        let both = [read_only(&self.files[0])?, read_only(&self.files[1])?];
        let all = |holds: &dyn Fn(&Connection) -> Result<bool>| -> Result<bool> { Ok(holds(&both[0])? && holds(&both[1])?) };
        let fields = all(&|c| Ok(apart[0].holds(c, &edits.laptop)? && apart[1].holds(c, &edits.phone)?)).and_then(|held| {
            ensure!(held, "an edit of {} or {} is lost", apart[0], apart[1]);
            Ok(format!("{} of the laptop and {} of the phone are on both", apart[0], apart[1]))
        });
        let same = all(&|c| Ok(same[0].holds(c, &edits.late)? && same[1].holds(c, &edits.late)?)).and_then(|held| {
            ensure!(held, "an earlier edit of {} won", same[0]);
            Ok(format!("{}: the phone's where it was later, the laptop's where it was later", same[0]))
        });
        let deletes = all(&|c| Ok(!deleted_last.exists(c)?)).and_then(|gone| {
            ensure!(gone, "a row of {} that was deleted after its edit is back", deleted_last);
            let kept = all(&|c| edited_last.holds(c, &edits.late))?;
            ensure!(kept || all(&|c| Ok(!edited_last.exists(c)?))?, "a row of {edited_last} is deleted on one device and not on the other");
            let fate = if kept { "stays, with the edit" } else { "is gone" };
            Ok(format!("deleted after the edit: the row is gone; edited after the delete: it {fate}"))
        });
        Ok([fields, same, deletes])
    }

    async fn talk(&mut self, report: &mut Report) -> Result<()> {
        report.heading("d. A message from one to the other");
        report.begin("a message goes each way");
        let result = self.exchange().await;
        report.check("a topic message reaches the other device", result)
    }

    async fn exchange(&mut self) -> Result<String> {
        let mut bytes = 0;
        for from_phone in [false, true] {
            let text = self.text("hello from the other side, grüß dich");
            let (from, to) = if from_phone { (&self.phone, &self.laptop) } else { (&self.laptop, &self.phone) };
            // A topic of its own: the one message on it is the one that is waited for.
            let topic = format!("from the {}", from.name);
            let follower = to.spawn(&["topic", "follow", &topic, "--last", "1", "--count", "1"], None).await?;
            let published: Progress = from.run(&["topic", "publish", &topic, &text], None).await?;
            let got: Messages = follower.finish().await?;
            let [message] = &got.messages[..] else { bail!("{} messages came instead of one", got.messages.len()) };
            ensure!(message.id == published.id, "another message came");
            ensure!(message.body == Body::Text(text.clone()), "{:?} came instead of {text:?}", message.body);
            ensure!(message.author == status(from).await?.id.to_string(), "the message has another author");
            bytes += text.len();
        }
        Ok(format!("both ways, payloads equal, authors right ({bytes} bytes)"))
    }

    async fn pass_by(&mut self, report: &mut Report) -> Result<()> {
        report.heading("e. Never online together: the stranger keeps what is on the way");
        report.begin("the phone is off; the laptop writes a row, publishes a message, and goes off");
        let left = self.leave_for_phone().await;
        report.check("the stranger holds the row and the message", left.as_ref().map(|left| left.2.clone()).map_err(clone))?;
        let (message, text, _) = left?;
        report.begin("the phone returns, the laptop is off");
        let result = self.collect(&message, &text).await;
        report.check("the phone receives both from the stranger", result)?;
        report.begin("looking for plaintext in all that the stranger keeps");
        let result = self.stranger_is_blind();
        report.check("the stranger could read nothing", result)
    }

    /// Gives the message's id, its text, and what was done.
    async fn leave_for_phone(&mut self) -> Result<(String, String, String)> {
        self.all_connected().await?;
        self.phone.stop().await?;
        let text = self.text("for the phone");
        let before = status(&self.stranger).await?.cache.packets;
        open(&self.files[0])?.execute_batch(&self.plan.insert.sql(0, &text))?;
        let published: Progress = self.laptop.run(&["topic", "publish", TOPIC, &text, "--wait", "stored"], None).await?;
        settled(&self.laptop).await?;
        // The message is one packet; the row is at least one more, which its writer has no way to wait for.
        let packets = until(async || {
            let packets = status(&self.stranger).await?.cache.packets;
            ensure!(packets >= before + 2, "the stranger's cache grew from {before} to {packets} packets: the row is not among them");
            Ok(packets - before)
        })
        .await?;
        self.laptop.stop().await?;
        let copies = plural(published.copies as usize, "copy", "copies");
        Ok((
            published.id,
            text,
            format!("1 row and 1 message of the laptop, {copies} of the message elsewhere, {packets} packets more in the stranger's cache"),
        ))
    }

    async fn collect(&mut self, message: &str, text: &str) -> Result<String> {
        let begun = tokio::time::Instant::now();
        self.phone.start().await?;
        received(&self.phone, message, text).await?;
        let row = self.plan.insert.field(0);
        let connection = read_only(&self.files[1])?;
        until(async || {
            ensure!(row.holds(&connection, text)?, "the row has not come");
            Ok(())
        })
        .await?;
        let (phone, stranger) = (status(&self.phone).await?, status(&self.stranger).await?);
        ensure!(phone.peers.iter().any(|peer| peer.id == stranger.id), "the phone has no session with the stranger");
        ensure!(phone.peers.iter().all(|peer| peer.name.is_none()), "the phone has a session with the laptop");
        let equal = equal(&self.files[0], &self.files[1], &self.tables)?;
        Ok(format!("row and message are there {} after its start; {equal}", span(begun.elapsed())))
    }

    fn stranger_is_blind(&self) -> Result<String> {
        let search = Search::new(&self.secrets);
        let disk = search.files(self.stranger.folder())?;
        let memory = self.stranger.process().and_then(|process| search.memory(process));
        for scan in [Some(&disk), memory.as_ref()].into_iter().flatten() {
            if let Some((text, place)) = self.secrets.iter().zip(&scan.found).find_map(|(text, place)| Some((text, place.as_ref()?))) {
                bail!("the stranger has {text:?} in {place}");
            }
        }
        // The same search must find what is there to be found, or it proves nothing.
        let own = search.files(self.laptop.folder())?;
        ensure!(
            own.hits() * 2 > self.secrets.len(),
            "only {} of {} texts are found in Alice's own plain files",
            own.hits(),
            self.secrets.len()
        );
        let memory = match (memory, self.phone.process().and_then(|process| search.memory(process))) {
            (Some(stranger), Some(phone)) => {
                ensure!(phone.hits() > 0, "the search in memory does not find the texts in the phone's either");
                format!(" and {} of memory", size(stranger.bytes))
            }
            _ => String::new(),
        };
        let (texts, hits) = (self.secrets.len(), own.hits());
        Ok(format!(
            "0 of {texts} texts in {}, {}{memory}; the same search finds {hits} of them at Alice's",
            plural(disk.files, "file", "files"),
            size(disk.bytes)
        ))
    }

    async fn survive(&mut self, report: &mut Report) -> Result<()> {
        report.heading("f. Killed in the middle of work, and started again");
        report.begin("the laptop writes and publishes, and is killed (SIGKILL)");
        self.laptop.start().await?;
        self.all_connected().await?;
        let (file, mark) = (self.files[0].clone(), self.mark.clone());
        let work = burst::until_killed(&mut self.laptop, &file, &self.plan.insert, &mark, 1).await?;
        let (file, insert) = (&self.files[0], &self.plan.insert);
        let restarted = async {
            self.laptop.start().await?;
            work.check(&self.laptop, file, insert).await
        };
        let result = restarted.await;
        report.check("started again, it has all that was acknowledged", result.map(|()| work.to_string()))?;
        self.secrets.extend(work.texts());
        report.begin("it goes on: the phone gets what was acknowledged before the kill");
        let result = self.caught_up(&work).await;
        report.check("the other device gets all of it", result)
    }

    async fn caught_up(&self, work: &burst::Burst) -> Result<String> {
        until(async || work.check(&self.phone, &self.files[1], &self.plan.insert).await).await?;
        let equal = until(async || equal(&self.files[0], &self.files[1], &self.tables)).await?;
        Ok(equal.to_string())
    }

    async fn part(&mut self, report: &mut Report) -> Result<()> {
        report.heading("The end");
        report.begin("all three stop");
        let mut stopped = Ok(());
        for peer in self.peers() {
            stopped = stopped.and(peer.stop().await);
        }
        let result = stopped.and_then(|()| {
            for file in &self.files {
                let found: String = read_only(file)?.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
                ensure!(found == "ok", "{}: {found}", file.display());
            }
            let equal = equal(&self.files[0], &self.files[1], &self.tables)?;
            self.stranger_is_blind().map(|blind| format!("{equal}, both sound; {blind}"))
        });
        report.check("all stop cleanly, and all of it still holds", result)
    }
}

/// The texts that the devices wrote while apart.
#[derive(Debug)]
struct Edits {
    laptop: String,
    phone: String,
    early: String,
    late: String,
}

/// What `topic follow --json` prints.
#[derive(Debug, serde::Deserialize)]
struct Messages {
    messages: Vec<Message>,
}

async fn status(peer: &Peer) -> Result<Status> {
    Ok(peer.ask(&Request::Status {}).await?)
}

/// Waits until every edit of the peer's file is stamped, and with other peers if there are any.
async fn settled(peer: &Peer) -> Result<()> {
    until(async || {
        let databases: Vec<DatabaseStatus> = peer.ask(&Request::Databases { database: Some(database()) }).await?;
        let [database] = &databases[..] else { bail!("{} databases have the name {NAME}", databases.len()) };
        ensure!(database.pending == 0, "{} edits wait to be stamped", database.pending);
        Ok(())
    })
    .await
}

/// Waits until the message is in the peer's history, with this text.
async fn received(peer: &Peer, id: &str, text: &str) -> Result<()> {
    until(async || {
        let messages = history(peer).await?;
        let message = messages.iter().find(|message| message.id == id).context("the message has not come")?;
        ensure!(message.body == Body::Text(text.to_owned()), "{:?} came instead of {text:?}", message.body);
        Ok(())
    })
    .await
}

/// Every message of the topic that the peer knows.
pub(crate) async fn history(peer: &Peer) -> Result<Vec<Message>> {
    let request = Request::Follow { topic: topic(), last: 100_000, live: false, count: None };
    let mut call = peer.call(&request).await?;
    let mut messages = Vec::new();
    while let Next::Event(message) = call.next::<Message, answer::Count>().await? {
        messages.push(message);
    }
    Ok(messages)
}

pub(crate) fn topic() -> TopicName {
    TopicName { label: TOPIC.to_owned(), passphrase: None, group: false }
}

pub(crate) fn database() -> DatabaseRef {
    DatabaseRef { name: NAME.to_owned(), path: PathBuf::from("/").join(NAME) }
}

/// Long texts of the database, as many as are worth looking for.
fn texts_of(connection: &Connection, tables: &[String]) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for table in tables {
        for column in compare::columns(connection, table)? {
            let name = compare::quoted(&column.name);
            let sql = format!(
                "SELECT DISTINCT {name} FROM {} WHERE typeof({name}) = 'text' AND length({name}) BETWEEN 12 AND 200 ORDER BY length({name}) DESC LIMIT 5",
                compare::quoted(table)
            );
            found.extend(connection.prepare(&sql)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?);
        }
    }
    found.sort();
    found.dedup();
    found.truncate(100);
    Ok(found)
}

/// The same error for a second reader.
fn clone(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// The name of the database among Alice's.
const NAME: &str = "shop";
const TOPIC: &str = "greetings";
/// Edits on two devices are this far apart, so that there is a later one.
const APART: Duration = Duration::from_millis(20);
