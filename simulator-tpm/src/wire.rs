//! The three TPM commands that a boot needs, over swtpm's TCP transport (TPM 2.0 Library Part 3).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::{Boot, SimulatorError};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Loaded machines take their time to start a process.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(10);

const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
const CC_PCR_EXTEND: u32 = 0x0000_0182;
const CC_SELF_TEST: u32 = 0x0000_0143;
const CC_STARTUP: u32 = 0x0000_0144;
const ALG_SHA256: u16 = 0x000b;
const HEADER_BYTES: usize = 10;
/// Largest response of these commands, generously.
const RESPONSE_BYTES_MAX: usize = 4096;

/// An empty password session (TPM_RS_PW), with its size before it.
const PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// A connection to swtpm. It serves one at a time: drop it before anyone else is to connect.
#[derive(Debug)]
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// Connects as soon as swtpm listens. `alive` says whether it still may.
    pub(crate) fn connect(port: u16, mut alive: impl FnMut() -> bool) -> Result<Self, SimulatorError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + START_TIMEOUT;
        while alive() && Instant::now() < deadline {
            if let Ok(stream) = TcpStream::connect_timeout(&address, COMMAND_TIMEOUT) {
                let set = |stream: &TcpStream| {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(COMMAND_TIMEOUT))?;
                    stream.set_write_timeout(Some(COMMAND_TIMEOUT))
                };
                set(&stream).map_err(SimulatorError::io("set up the connection to swtpm"))?;
                return Ok(Self(stream));
            }
            std::thread::sleep(RETRY);
        }
        Err(SimulatorError::Timeout("listen"))
    }

    /// Extends every measurement into the SHA-256 bank.
    pub(crate) fn play(&mut self, boot: &Boot) -> Result<(), SimulatorError> {
        for (pcr, digest) in boot.extends() {
            let mut body = u32::from(*pcr).to_be_bytes().to_vec();
            body.extend(PASSWORD);
            body.extend(1_u32.to_be_bytes());
            body.extend(ALG_SHA256.to_be_bytes());
            body.extend(digest);
            self.command("TPM2_PCR_Extend", ST_SESSIONS, CC_PCR_EXTEND, &body)?;
        }
        Ok(())
    }

    /// TPM2_Startup(TPM_SU_CLEAR), at the locality that the control channel was told.
    pub(crate) fn startup(&mut self) -> Result<(), SimulatorError> {
        self.command("TPM2_Startup", ST_NO_SESSIONS, CC_STARTUP, &[0, 0])
    }

    /// TPM2_SelfTest(fullTest = no): answers once the TPM is started.
    pub(crate) fn self_test(&mut self) -> Result<(), SimulatorError> {
        self.command("TPM2_SelfTest", ST_NO_SESSIONS, CC_SELF_TEST, &[0])
    }

    fn command(
        &mut self,
        name: &'static str,
        tag: u16,
        code: u32,
        body: &[u8],
    ) -> Result<(), SimulatorError> {
        let size = u32::try_from(HEADER_BYTES + body.len()).map_err(|_| SimulatorError::Malformed(name))?;
        let command = [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat();
        self.0.write_all(&command).map_err(SimulatorError::io(format!("send {name}")))?;
        let receive = || SimulatorError::io(format!("receive the answer to {name}"));
        let mut header = [0; HEADER_BYTES];
        self.0.read_exact(&mut header).map_err(receive())?;
        let [_, _, s0, s1, s2, s3, c0, c1, c2, c3] = header;
        let rest = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).ok();
        let rest =
            rest.and_then(|size| size.checked_sub(HEADER_BYTES)).filter(|rest| *rest <= RESPONSE_BYTES_MAX);
        let mut body = vec![0; rest.ok_or(SimulatorError::Malformed(name))?];
        self.0.read_exact(&mut body).map_err(receive())?;
        match u32::from_be_bytes([c0, c1, c2, c3]) {
            0 => Ok(()),
            code => Err(SimulatorError::Response { command: name, code }),
        }
    }
}
