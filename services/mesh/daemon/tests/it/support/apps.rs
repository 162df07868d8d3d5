//! Apps on a machine: threads with a user of their own, as mesh sees it from the other end of a socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use macula_app::App;
use os_identity::{NodeId, NodeKey};
use os_ucan::policy::Policy;
use os_ucan::{Ability, Capability, Delegation, Resource, Subject, chain, jwt};

use super::Machine;

/// In the place of what `identity` derives.
pub fn key(node: &NodeKey, name: &str) -> NodeKey {
    let mut seed = *node.seed();
    seed.iter_mut().zip(name.bytes()).for_each(|(s, n)| *s ^= n | 0x80);
    NodeKey::from_seed(&seed)
}

/// A chain of one link, from `issuer` to an app.
pub fn grant(issuer: &NodeKey, app: NodeId, rights: &[(&str, String)]) -> Vec<u8> {
    let capability = |(ability, resource): &(&str, String)| Capability {
        ability: Ability::parse(ability).unwrap(),
        resource: Resource::parse(resource).unwrap(),
    };
    let delegation = Delegation {
        issuer: issuer.node_id().into(),
        audience: app.into(),
        subject: Subject::Implied,
        capabilities: rights.iter().map(capability).collect(),
        policy: Policy::default(),
        not_before: None,
        expires: None,
        nonce: Vec::new(),
        meta: Default::default(),
        proofs: Vec::new(),
    };
    chain::encode(&[jwt::issue(&delegation, issuer).unwrap()]).unwrap()
}

/// What the supervisor does before it starts an app, and lets everybody reach mesh.
pub fn install(machine: &Machine, uid: u32, name: &str, rights: &[(&str, String)]) {
    let dir = machine.dir().join("apps").join(uid.to_string());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("name"), name).unwrap();
    let chain = grant(&machine.key, key(&machine.key, name).node_id(), rights);
    fs::write(dir.join("grants"), chain).unwrap();
    open_doors(machine);
}

/// Again after mesh was restarted: its socket is a new one.
pub fn open_doors(machine: &Machine) {
    fs::set_permissions(machine.dir(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(machine.dir().join("mesh.sock"), Permissions::from_mode(0o666)).unwrap();
}

/// Whether this process can become others; says so when not.
pub fn can_change_users() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: apps have users of their own, so this needs root");
    }
    root
}

/// Runs an app's work on a thread of that user, and what it returns.
pub fn as_app<F, T>(machine: &Machine, uid: u32, work: F) -> impl Future<Output = T> + Send + use<F, T>
where
    F: AsyncFnOnce(App) -> T + Send + 'static,
    T: Send + 'static,
{
    let dir = machine.dir().to_path_buf();
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // SAFETY: the plain system call changes this thread alone, unlike libc's function of that name.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
        assert_eq!(changed, 0, "cannot become user {uid}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let grants = dir.join("apps").join(uid.to_string()).join("grants");
        let done = runtime.block_on(async {
            let app = App::connect_in(dir, Some(&grants)).await.expect("an app");
            work(app).await
        });
        let _ = send.send(done);
    });
    async { receive.await.expect("the app has panicked") }
}
