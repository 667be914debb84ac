//! A line between hospitals and coordinator that a test can break.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to a connection, by the bytes it has carried both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is cut after so many bytes.
    CutAfter(u64),
    /// Nothing passes any more after so many bytes.
    HoldAfter(u64),
}

/// A proxy to a port of this machine. It serves until the test ends.
#[derive(Clone)]
pub struct Line {
    port: u16,
    fault: Arc<Mutex<Fault>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    connections: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
}

impl Line {
    /// A line to a port, with a fault in it.
    pub fn new(target: u16, fault: Fault) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let line = Self {
            port,
            fault: Arc::new(Mutex::new(fault)),
            open: Arc::default(),
            connections: Arc::default(),
            cuts: Arc::default(),
        };
        let served = line.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) {
                    // A connection that breaks while it is made is what this is about.
                    let _ = served.connect(&client, &server);
                }
            }
        });
        Ok(line)
    }

    /// Where hospitals dial.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections until now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts every connection; from now on this happens to new ones.
    pub fn cut(&self, next: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.cuts.fetch_add(1, Ordering::Relaxed);
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn connect(&self, client: &TcpStream, server: &TcpStream) -> io::Result<()> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let ends = [client.try_clone()?, server.try_clone()?];
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend(ends);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let carried = Arc::<AtomicU64>::default();
        for (mut from, mut to) in
            [(client.try_clone()?, server.try_clone()?), (server.try_clone()?, client.try_clone()?)]
        {
            let (carried, cuts) = (Arc::clone(&carried), Arc::clone(&self.cuts));
            let before = cuts.load(Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut buffer = [0; 16384];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    let bytes = carried.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
                    match fault {
                        Fault::CutAfter(limit) if bytes > limit => break,
                        // Until somebody cuts it.
                        Fault::HoldAfter(limit) if bytes > limit => {
                            while cuts.load(Ordering::Relaxed) == before {
                                std::thread::sleep(Duration::from_millis(20));
                            }
                            break;
                        }
                        _ => {}
                    }
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
