//! Devices are linked where there is no internet, and through a third device.

use crate::host::Host;
use crate::peer::Peer;
use crate::{note, until};

#[test]
fn two_devices_on_a_lan_without_internet_are_linked_by_code_and_by_link() {
    for more in [&[][..], &["--link"]] {
        let Some([a, b]) = Host::several() else { return };
        let _switch = Host::lan(&[(&a, &["10.77.0.1/24"]), (&b, &["10.77.0.2/24"])]);
        let (mut laptop, mut phone) = (Peer::new(&a), Peer::new(&b));
        laptop.ready("laptop", &[]);
        phone.ready("phone", &[]);
        // Nobody waits for a session: both have just been switched on.
        are_linked("on a LAN without internet", &laptop, &phone, more);
    }
}

#[test]
fn a_link_reaches_its_device_on_a_lan_where_nothing_is_announced() {
    let Some([a, b]) = Host::several() else { return };
    let _switch = Host::lan(&[(&a, &["10.77.0.1/24"]), (&b, &["10.77.0.2/24"])]);
    let (mut laptop, mut phone) = (Peer::new(&a), Peer::new(&b));
    laptop.ready("laptop", &["--no-lan"]);
    phone.ready("phone", &["--no-lan"]);
    are_linked("by the addresses of a link", &laptop, &phone, &["--link"]);
}

#[test]
fn two_devices_on_two_lans_are_linked_through_one_that_is_on_both() {
    for more in [&[][..], &["--link"]] {
        let Some([a, b, both]) = Host::several() else { return };
        let _near = Host::lan(&[(&a, &["10.77.1.1/24"]), (&both, &["10.77.1.2/24"])]);
        let _far = Host::lan(&[(&b, &["10.77.2.1/24"]), (&both, &["10.77.2.2/24"])]);
        let (mut laptop, mut phone, mut stranger) = (Peer::new(&a), Peer::new(&b), Peer::new(&both));
        laptop.ready("laptop", &[]);
        phone.ready("phone", &[]);
        stranger.ready("stranger", &[]);
        until("the stranger knows both", || stranger.sessions().len() == 2);
        are_linked("through a third", &laptop, &phone, more);
        let path = laptop.ok(&["status"])["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == "phone").cloned();
        if let Some(path) = path {
            assert_eq!(path["path"], format!("relayed by {}", stranger.id()), "there is no other way");
        }
    }
}

/// The laptop invites and the phone accepts; both show the same words and are one user.
fn are_linked(how: &str, laptop: &Peer<'_>, phone: &Peer<'_>, more: &[&str]) {
    let (invite, ticket) = laptop.invite(more);
    let mut accepted = serde_json::Value::Null;
    let took = until("it is linked", || {
        accepted = phone.ok_with(&["accept"], &format!("{ticket}\n"));
        true
    });
    let output = invite.wait_with_output().unwrap();
    let invited: serde_json::Value = serde_json::from_slice(output.stdout.trim_ascii()).unwrap();
    assert_eq!(invited["words"], accepted["words"]);
    assert_eq!((&invited["name"], &accepted["name"]), (&"phone".into(), &"laptop".into()));
    let user = |peer: &Peer<'_>| peer.ok(&["status"])["user"]["id"].clone();
    assert_eq!(user(laptop), user(phone));
    note(&format!("linked {how} {}: {took:.2?}", more.join(" ")));
}
