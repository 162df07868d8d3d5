//! Debian's `rauc` and GLib's `gdbus` against the service on a socket, with stand-ins for its neighbours.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use os_bootloader::Bootloader;
use os_release::Version;
use services_api::bus;
use tokio::net::UnixListener;
use tokio::process::Command;

use super::serve_client;
use crate::tests::{TURN, World, settled};
use crate::updater::Updater;

/// A client's end: the service's own socket, or a stream as it comes out of the mesh.
#[derive(Clone, Copy)]
enum Way {
    Socket,
    Mesh,
}

/// Serves `updater` and returns where.
fn offer(world: &World, updater: &Arc<Updater>, way: Way) -> PathBuf {
    let path = world.dir.path().join(match way {
        Way::Socket => "update.sock",
        Way::Mesh => "stream.sock",
    });
    let _ = std::fs::remove_file(&path);
    let (listener, updater) = (UnixListener::bind(&path).unwrap(), updater.clone());
    tokio::spawn(async move {
        match way {
            Way::Socket => bus::serve_each(
                listener,
                |_| false,
                move |builder, _| {
                    let updater = updater.clone();
                    async move { super::serve(builder, &updater, true).await }
                },
            )
            .await
            .unwrap(),
            Way::Mesh => loop {
                let (stream, _) = listener.accept().await.unwrap();
                let updater = updater.clone();
                tokio::spawn(async move { serve_client(&updater, stream).await.unwrap() });
            },
        }
    });
    path
}

/// Runs a client with our socket as its system bus. None when this host does not have it.
async fn client(socket: &Path, program: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C.UTF-8");
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", socket.display()));
    match tokio::time::timeout(std::time::Duration::from_secs(30), command.output()).await.expect(program) {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("no {program} here: its conversation with the service is not tested");
            None
        }
        Err(e) => panic!("{program}: {e}"),
    }
}

fn said(output: &Output) -> String {
    [&*output.stdout, &*output.stderr].map(|b| String::from_utf8_lossy(b).into_owned()).concat()
}

async fn rauc(socket: &Path, arguments: &[&str]) -> Option<(bool, String)> {
    let output = client(socket, "rauc", arguments).await?;
    Some((output.status.success(), said(&output)))
}

/// Slot A runs, B holds an older committed release.
fn two_good_slots(world: &World) {
    world.esp().stage(2, 3, &mut &b"new"[..]).unwrap();
    let armed = world.esp().arm(2).unwrap();
    world.esp().commit(armed).unwrap();
    world.count_down("macula-000001.efi", "macula-000003.efi");
}

#[tokio::test(flavor = "current_thread")]
async fn rauc_shows_status_and_marks_slots() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    two_good_slots(&world);
    let updater = world.boot("macula-000003.efi", vec![]);
    settled(&updater).await;
    for way in [Way::Socket, Way::Mesh] {
        let socket = offer(&world, &updater, way);
        let Some((ok, text)) = rauc(&socket, &["status", "--detailed", "--output-format=json"]).await else {
            return;
        };
        let status: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert!(ok && status["compatible"] == "x86-generic" && status["booted"] == "A", "{text}");
        assert_eq!(status["boot_primary"], "rootfs.0", "{text}");
        let slots = status["slots"].as_array().unwrap();
        let slot = |name: &str| slots.iter().find_map(|s| s.get(name)).expect(&text);
        assert_eq!(
            (&slot("rootfs.0")["state"], &slot("rootfs.0")["boot_status"]),
            (&"booted".into(), &"good".into())
        );
        assert_eq!(
            (&slot("rootfs.1")["bootname"], &slot("rootfs.1")["device"]),
            (&"B".into(), &"/d3".into())
        );
        assert_eq!(slot("rootfs.0")["slot_status"]["bundle"]["version"], "0.2.0", "{text}");
    }
    let socket = offer(&world, &updater, Way::Mesh);
    let mark = async |what, slot| rauc(&socket, &["status", what, slot]).await.unwrap();
    assert_eq!(
        mark("mark-good", "booted").await,
        (true, "rauc status: marked slot rootfs.0 as good\n".into())
    );
    let (ok, text) = mark("mark-active", "other").await;
    assert!(ok && text.contains("activated slot rootfs.1: the next boot takes"), "{text}");
    assert_eq!(world.entries(), ["macula-000002.efi", "macula-000003+0-3.efi"]);
    assert!(mark("mark-active", "booted").await.0);
    assert_eq!(world.entries(), ["macula-000003.efi", "macula-000002.efi"]);
    assert!(mark("mark-bad", "rootfs.1").await.0);
    assert_eq!(world.entries(), ["macula-000003.efi", "macula-000002+0-3.efi"]);
    let (ok, text) = mark("mark-bad", "booted").await;
    assert!(!ok && text.contains("no committed release"), "{text}");
}

#[tokio::test(flavor = "current_thread")]
async fn rauc_installs_a_release_by_its_name_and_hears_how_it_ends() {
    let _turn = TURN.lock().await;
    let mut world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    let socket = offer(&world, &updater, Way::Mesh);
    let older = world.publish(|r| r.version = Version::new(0, 0, 9)).bundle;
    let Some((ok, text)) = rauc(&socket, &["install", &format!("mcid:{older}")]).await else { return };
    assert!(!ok && text.contains("LastError") && text.contains("older"), "{text}");
    assert!(!rauc(&socket, &["install", "mcid:bundle"]).await.unwrap().0);
    assert_eq!(world.entries(), ["macula-000001.efi"]);

    let mcid = world.publish(|_| {}).bundle;
    let (ok, text) = rauc(&socket, &["install", &format!("mcid:{mcid}")]).await.unwrap();
    assert!(ok && text.contains("100% Installing done.") && text.contains("succeeded"), "{text}");
    assert_eq!(world.next_reboot().await, "trial of 0.2.0");
    assert_eq!(world.entries(), ["macula-000002+3.efi", "macula-000001.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_slot_on_trial_is_the_gates() {
    let _turn = TURN.lock().await;
    let mut world = World::new("starting");
    let (updater, _) = world.on_trial().await;
    world.next_reboot().await;
    // The gate said no and marked it; the machine is on its way down, and nobody has a say any more.
    let socket = offer(&world, &updater, Way::Socket);
    let Some((ok, text)) = rauc(&socket, &["status", "mark-good"]).await else { return };
    assert!(!ok && text.contains("its gate alone decides"), "{text}");
    assert_eq!(world.entries(), ["macula-000001.efi", "macula-000002+0-1.efi"]);
}

#[tokio::test(flavor = "current_thread")]
async fn other_d_bus_clients_find_their_way() {
    let _turn = TURN.lock().await;
    let world = World::new("ready");
    let updater = world.boot("macula-000001.efi", vec![]);
    settled(&updater).await;
    for way in [Way::Socket, Way::Mesh] {
        let socket = offer(&world, &updater, way);
        let to = ["--system", "--dest", "de.pengutronix.rauc", "--object-path", "/"];
        let primary =
            [&["call"], &to[..], &["--method", "de.pengutronix.rauc.Installer.GetPrimary"]].concat();
        if let Some(output) = client(&socket, "gdbus", &primary).await {
            assert_eq!(said(&output), "('rootfs.0',)\n");
        }
        let all = ["call", "de.pengutronix.rauc", "/", "org.freedesktop.DBus.Properties", "Get", "ss"];
        let property = ["de.pengutronix.rauc.Installer", "SystemVersion"];
        if let Some(output) = client(&socket, "busctl", &[&["--system"], &all[..], &property].concat()).await
        {
            assert_eq!(said(&output), "v s \"0.1.0\"\n");
        }
        let names =
            ["call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames"];
        if let Some(output) = client(&socket, "busctl", &[&["--system"], &names[..]].concat()).await {
            assert!(said(&output).contains("de.pengutronix.rauc"), "{}", said(&output));
        }
    }
}
