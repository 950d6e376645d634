//! Lets a browser on the host see the page of a fleet in a sandbox: TCP on the host's loopback, a Unix socket
//! through the file system, TCP on the sandbox's loopback.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::Failure;

/// Most connections at once; a further one waits.
const CONNECTIONS_MAX: usize = 32;

/// The sandbox's end: gives what comes over the socket to the page. Returns at once; works until the process ends.
pub fn serve_inside(socket: &Path, page: &'static str) -> Result<(), Failure> {
    let listener = UnixListener::bind(socket)?;
    let places = Arc::new(());
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            wait_for_place(&places);
            let place = places.clone();
            thread::spawn(move || {
                if let (Ok(far), Ok(near_read)) = (TcpStream::connect(page), near.try_clone()) {
                    let _ = far.try_clone().map(|far_write| join(near_read, far_write, far, near));
                }
                drop(place);
            });
        }
    });
    Ok(())
}

/// The host's end. Gives the listener that [`serve_outside`] works on: the page's own port when it is free.
pub fn listen_outside(page: &str) -> io::Result<TcpListener> {
    TcpListener::bind(page).or_else(|_| TcpListener::bind("127.0.0.1:0"))
}

/// Works until the socket is gone.
pub fn serve_outside(listener: &TcpListener, socket: &Path) {
    let places = Arc::new(());
    for near in listener.incoming().flatten() {
        if !socket.exists() {
            return;
        }
        wait_for_place(&places);
        let place = places.clone();
        let far = UnixStream::connect(socket);
        thread::spawn(move || {
            if let (Ok(far), Ok(near_read)) = (far, near.try_clone()) {
                let _ = far.try_clone().map(|far_write| join(near_read, far_write, far, near));
            }
            drop(place);
        });
    }
}

fn wait_for_place(places: &Arc<()>) {
    while Arc::strong_count(places) > CONNECTIONS_MAX {
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Copies both ways until both sides have ended.
fn join<A, B>(mut a_read: A, mut b_write: B, mut b_read: B, mut a_write: A)
where
    A: io::Read + io::Write + Shut + Send,
    B: io::Read + io::Write + Shut + Send + 'static,
{
    thread::scope(|scope| {
        scope.spawn(move || {
            let _ = io::copy(&mut a_read, &mut b_write);
            b_write.shut();
        });
        let _ = io::copy(&mut b_read, &mut a_write);
        a_write.shut();
    });
}

/// Ends the writing half, so that the other side sees the end.
trait Shut {
    fn shut(&self);
}

impl Shut for TcpStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Shut for UnixStream {
    fn shut(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}
