//! `rauc-bus`: a socket on this machine that RAUC's clients take for a message bus with the node's RAUC service on it.
//!
//! Each client gets a stream of its own to the node, over a connection of its own: it may come before and after a reboot
//! of the node. What flows is not looked at.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use services_api::control::protocol;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::Session;
use crate::node::Node;
use crate::output::one_line;

pub async fn bus(s: &Session, path: &Path) -> Result<()> {
    // Says now what would otherwise be said to the first client only.
    s.ask(async |node| node.remote().map(drop)).await?;
    let listener = listen(path)?;
    s.out.done(&format!("export DBUS_SYSTEM_BUS_ADDRESS=unix:path={}", path.display()))?;
    let clients = LocalSet::new();
    let served = tokio::select! {
        served = clients.run_until(serve(s, &listener)) => served,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let _ = std::fs::remove_file(path);
    served
}

/// A socket for this user alone. One that was left behind is replaced.
fn listen(path: &Path) -> Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is no socket", path.display())
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            bail!("another process listens on {}", path.display())
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", path.display())),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(s: &Session, listener: &UnixListener) -> Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let session = s.clone();
        tokio::task::spawn_local(async move {
            if let Err(e) = carry(&session, client).await {
                eprintln!("maculactl: {}", one_line(&e));
            }
        });
    }
}

async fn carry(s: &Session, mut client: UnixStream) -> Result<()> {
    let node = s.node().await?;
    let carried = pipe(&node, &mut client).await;
    node.close().await;
    carried
}

async fn pipe(node: &Node, client: &mut UnixStream) -> Result<()> {
    let remote = node.remote()?;
    let (send, recv) = remote.open(protocol::RAUC, "").await?;
    let mut stream = tokio::io::join(recv, send);
    match tokio::io::copy_bidirectional(client, &mut stream).await {
        Ok(_) => Ok(()),
        // The client left in the middle of a message: its own affair.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(remote.explain(protocol::RAUC, e.into()).await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen(&path).unwrap_err().to_string().contains("another process"));
        drop(first);
        listen(&path).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "keep").unwrap();
        assert!(listen(&file).unwrap_err().to_string().contains("no socket"));
        assert_eq!(std::fs::read(&file).unwrap(), b"keep");
    }
}
