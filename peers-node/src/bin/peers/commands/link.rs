//! `peers invite` and `peers accept`.

use peers_crypto::LinkCode;

use super::{ask_line, socket};
use crate::control::Request;
use crate::control::answer::{Code, Linked};
use crate::control::client::{Call, Next, ask};
use crate::failure::Failure;
use crate::output::Output;
use crate::text::safe;

pub(crate) async fn invite(output: Output) -> Result<(), Failure> {
    let mut call = Call::new(&socket()?, &Request::Invite {}).await?;
    let linked = loop {
        match call.next::<Code, Linked>().await? {
            Next::Event(event) => {
                output.progress("On the new device, run `peers accept` and type this code:\n\n");
                output.progress(format!("    {}\n\n", event.code));
                output.progress("It is good for one guess and ten minutes. Waiting; Ctrl-C ends it.");
            }
            Next::Done(linked) => break linked,
        }
    };
    show(&linked, output);
    Ok(())
}

pub(crate) async fn accept(output: Output) -> Result<(), Failure> {
    let socket = socket()?;
    // Nobody is to type a code only to hear that no node runs.
    let _: serde_json::Value = ask(&socket, &Request::Status {}).await?;
    let code = ask_line("Code: ", false)?;
    let mistyped = |error| Failure::usage(format!("this is no code: {error}")).hint("type the four words that `peers invite` printed");
    let code = code.parse::<LinkCode>().map_err(mistyped)?.to_string();
    output.progress("looking for the other device");
    let linked: Linked = ask(&socket, &Request::Accept { code }).await?;
    show(&linked, output);
    Ok(())
}

fn show(linked: &Linked, output: Output) {
    output.say(format!("Linked with {} ({}).", safe(&linked.name, false), linked.device));
    output.say(format!("Both devices show: {}", linked.words));
    output.finish(linked);
}
